"""Which module becomes an adapted layer, which is refused and why: the two PEFT tuner models."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer, _maybe_include_all_linear_layers
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from symdream.errors import Problem, Problems
from symdream.tuners.config import SymmetricConfig
from symdream.tuners.layer import MasterParameters, SingLoraLinear, SymLoraLinear, SymmetricLinear, features_of
from symdream.tuners.mixed_batch import copies_in, each_row_its_own
from symdream.tuners.ramp import Ramp

COMPILED = "_orig_mod."  # what torch.compile puts before the names of a model's layers
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# Layers whose weights these models' kernels read. out_proj: PEFT's list for LoRA (_check_lora_target_modules_mamba),
# then what transformers' modeling_bamba.py and so on hand over as outproj_weight. dt_proj: read without a kernel too.
READ_BY_MAMBAS = {
    "out_proj": (
        *("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"),
        *("bamba", "granitemoehybrid", "zamba2"),
    ),
    "dt_proj": ("mamba", "falcon_mamba", "jamba"),
}


class UnsupportedLayer(Problems, ValueError):
    """Every targeted layer that cannot be adapted, by name, with the reason and what to do."""


def why_not(module: nn.Module, r: int) -> str | None:
    """Why this module cannot carry a symmetric update of rank r and what to do; None if it can."""
    while hasattr(module, "base_layer"):
        module = module.base_layer
    kind = type(module).__name__
    if isinstance(module, nn.MultiheadAttention):
        return f"is a fused {kind}, which never calls its layers; use separate nn.Linear q, k, v or leave it out"
    if kind == "NonDynamicallyQuantizableLinear":
        return "belongs to a fused MultiheadAttention, which reads its weight without calling it; leave it out"
    if not isinstance(module, nn.Linear | Conv1D):
        return (
            f"is a {kind}; only nn.Linear and GPT-2's Conv1D can be adapted: list it in exclude_modules or do not "
            "target it"
        )
    if type(module.weight) is not nn.Parameter or module.weight.dtype not in FLOATS:
        return (
            f"is a quantised or packed {kind} ({type(module.weight).__name__}, {module.weight.dtype}); "
            "load the model unquantised, in float32, bfloat16 or float16"
        )
    n_in, n_out = features_of(module)
    if r > min(n_in, n_out):
        return f"has shape {n_in} -> {n_out}, rank {r} is larger; take r <= {min(n_in, n_out)} or leave it out"
    return None


def why_not_there(model: nn.Module, name: str) -> str | None:
    """Why the layer `name` of this model would never be called and what to do; None if it is called.

    The model would read the layer's weight, and the update would act only once it is merged.
    """
    parent, _, child = name.rpartition(".")
    owner = model.get_submodule(parent)
    if isinstance(owner, nn.TransformerEncoderLayer) and torch.backends.mha.get_fastpath_enabled():
        return (
            f"belongs to a {type(owner).__name__}, which in eval() reads its weight without calling it; "
            "call torch.backends.mha.set_fastpath_enabled(False) first or leave it out"
        )
    kind = getattr(getattr(model, "config", None), "model_type", None)
    if kind in READ_BY_MAMBAS.get(child, ()):
        return f"belongs to a {kind} model, whose kernels read its weight without calling it; leave it out"
    return None


class SymmetricModel(BaseTuner):
    """Replaces targeted linear layers by SymmetricLinear ones. Raises UnsupportedLayer before anything is replaced."""

    target_module_mapping = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

    def inject_adapter(
        self,
        model: nn.Module,
        adapter_name: str,
        autocast_adapter_dtype: bool = True,
        low_cpu_mem_usage: bool = False,
        state_dict: dict[str, Tensor] | None = None,
    ) -> None:
        """Add the adapter to `model`.

        state_dict: its keys name the layers, in place of the configuration.

        Raises: ValueError for a name under which PyTorch keeps no parameter, UnsupportedLayer.
        """
        _check_name(adapter_name)
        self._named_by_keys = None if state_dict is None else {_layer_of(key, self.prefix) for key in state_dict}
        super().inject_adapter(model, adapter_name, autocast_adapter_dtype, low_cpu_mem_usage, state_dict)

    def _prepare_model(self, peft_config: SymmetricConfig, model: nn.Module) -> None:
        # What PEFT itself does next, when it is too late to refuse: 'all-linear' becomes names.
        peft_config = copy.copy(peft_config)  # of a refused one nothing changes
        _maybe_include_all_linear_layers(peft_config, model)
        # The parts of a layer that carries another tuner's adapter are no layers of the model, as for PEFT.
        inside = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, BaseTunerLayer))
        targets = {
            name: module
            for name, module in model.named_modules()
            if name and not name.startswith(inside) and self._is_target(peft_config, name)
        }
        _refuse(model, targets, peft_config.r)

    def _is_target(self, peft_config: SymmetricConfig, name: str) -> bool:
        if self._named_by_keys is not None:
            return name.removeprefix(COMPILED) in self._named_by_keys
        return bool(self._check_target_module_exists(peft_config, name))

    def _create_and_replace(
        self, peft_config, adapter_name, target, target_name, parent, current_key, parameter_name=None
    ) -> None:
        if isinstance(target, self.tuner_layer_cls):
            self._update(target, adapter_name, peft_config)
            return
        layer = self.tuner_layer_cls(target)
        self._update(layer, adapter_name, peft_config)
        self._replace_module(parent, target_name, layer, target)

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, adapter_names=None, **kwargs):
        # PEFT calls this around forward and generate; without it adapter_names would be dropped in silence.
        if adapter_names is None:
            yield
            return
        with each_row_its_own(self, adapter_names, copies_in(kwargs, self.model)):
            yield

    def _update(self, layer: SymmetricLinear, adapter_name: str, peft_config: SymmetricConfig) -> None:
        layer.update_layer(adapter_name, peft_config)


class SymLoraModel(SymmetricModel):
    """SymLoRA's PEFT tuner: see SymLoraConfig and SymmetricLinear."""

    prefix = "symlora_"
    tuner_layer_cls = SymLoraLinear


class SingLoraModel(SymmetricModel):
    """SingLoRA's PEFT tuner: see SingLoraConfig, SymmetricLinear and Ramp."""

    prefix = "singlora_"
    tuner_layer_cls = SingLoraLinear

    def inject_adapter(self, model: nn.Module, adapter_name: str, *args: Any, **kwargs: Any) -> None:
        """Add the adapter to `model`. u is kept in its configuration; one that has an adapter already is copied, with
        the u that it was first given."""
        config = self.peft_config[adapter_name]
        owner, u = vars(config).get("_first", (None, None))
        if owner == id(config):  # not a copy of one, which begins with the u that it has
            config = self.peft_config[adapter_name] = copy.deepcopy(config)
            config.u = u
        config._first = (id(config), config.u)
        super().inject_adapter(model, adapter_name, *args, **kwargs)

    def _prepare_model(self, peft_config: SymmetricConfig, model: nn.Module) -> None:
        super()._prepare_model(peft_config, model)
        self.ramp = Ramp(peft_config)  # one for all layers of the adapter that is being injected

    def _update(self, layer: SingLoraLinear, adapter_name: str, peft_config: SymmetricConfig) -> None:
        layer.update_layer(adapter_name, peft_config, self.ramp)


def _check_name(name: str) -> None:
    if not name or "." in name or hasattr(MasterParameters(), name):
        raise ValueError(
            f"An adapter cannot be called {name!r}: PyTorch keeps its parameters under this name, which must not be "
            "empty, hold a dot or be that of a method of nn.ParameterDict. Nothing was changed; choose another name."
        )


def _layer_of(key: str, prefix: str) -> str:
    """The layer that a saved key belongs to, by PEFT's rule."""
    return key.rsplit("." + prefix, 1)[0].removeprefix(COMPILED)


def _refuse(model: nn.Module, targets: dict[str, nn.Module], r: int) -> None:
    problems = [
        Problem(name, reason)
        for name, module in targets.items()
        if (reason := why_not(module, r) or why_not_there(model, name))
    ]
    if problems:
        raise UnsupportedLayer("target_modules", problems)
