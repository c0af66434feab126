"""SingLoRA's u: one number per model and adapter, set by the trainer, read by every layer."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from symdream.tuners.config import SingLoraConfig


class Ramp:
    """u of one adapter on one model.

    Every layer of the adapter holds this same object, so a step costs one fill, whatever the number of layers.
    The number also stays on the host: saving, merging and exporting never wait for the device.
    It is no buffer: a module's `.to()` would give every layer a copy of its own, and `.half()` would round it.
    """

    def __init__(self, config: SingLoraConfig):
        self.config = config
        self.value = float(config.u)
        self._tensors: dict[torch.device, Tensor] = {}

    def on(self, device: torch.device) -> Tensor:
        """u as a 0-d float32 tensor on this device: always the same tensor, so a CUDA graph may hold its address.

        A CUDA graph must not be the first to ask: one eager forward on the device comes before every capture.
        """
        u = self._tensors.get(device)
        if u is None:
            # A tensor born in inference mode (sampling before training) could not take part in a backward.
            with torch.inference_mode(False):
                u = torch.tensor(self.value, dtype=torch.float32, device=device)
            self._tensors[device] = u
        return u

    def set(self, value: float) -> None:
        """Fill u everywhere, and note it in the config, which is saved with the adapter."""
        self.value = self.config.u = value
        for u in self._tensors.values():
            u.fill_(value)


def find_ramps(model: nn.Module, adapter_name: str | None = None) -> list[Ramp]:
    """The ramps of `adapter_name`, or of all active SingLoRA adapters, each once; [] on any other model.

    Walks all modules (about a millisecond on a UNet): a training loop that cares keeps the list.
    """
    ramps: dict[int, Ramp] = {}
    for module in model.modules():
        if "ramps" in vars(module) and isinstance(module, BaseTunerLayer):
            for name in [adapter_name] if adapter_name is not None else module.active_adapters:
                if name in module.ramps:
                    ramps[id(module.ramps[name])] = module.ramps[name]
    return list(ramps.values())


def set_ramp(model: nn.Module, u: float, adapter_name: str | None = None) -> None:
    """Set SingLoRA's u on a model: dW = (alpha / r) u A_out A_in^T.

    Works on a PeftModel, on a model with injected layers, and on anything that contains one. Sets the active
    adapters, or only `adapter_name`; an inactive adapter keeps the u that it was saved with. Does nothing on a model
    without SingLoRA layers. u is not trained; it is saved with the adapter, in adapter_config.json, and restored where
    that makes the adapter (`from_pretrained`, `load_adapter` under a new name). Weights loaded into an adapter that is
    already there (`load_adapter(path, "default")`, `load_state_dict`, the Trainer's load_best_model_at_end) leave u as
    it is: `set_ramp(model, PeftConfig.from_pretrained(path).u)`.

    Raises: ValueError if u lies outside 0 to 1.
    """
    u = float(u)
    if not 0 <= u <= 1:
        raise ValueError(f"SingLoRA's ramp u must lie between 0 and 1, not {u}")
    for ramp in find_ramps(model, adapter_name):
        ramp.set(u)
