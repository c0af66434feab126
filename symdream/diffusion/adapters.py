"""Adapters on a base: attach new ones, save them as PEFT adapters, attach saved ones, set their weight."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from symdream.diffusion.base import Base
from symdream.diffusion.conditioning import unused_layers
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.errors import Problem, Problems, RequestError
from symdream.tensor_file import save_tensors
from symdream.tuners import METHODS, SymmetricLinear, target_modules

if TYPE_CHECKING:
    from symdream.config import TrainConfig

NAME = "default"  # PEFT's name for the adapter in training
WEIGHTS = "adapter_model.safetensors"
METADATA_KEY = "symdream"
PEFT_PREFIX = "base_model.model."  # what PeftModel.from_pretrained expects before each key


def attach(
    base: Base,
    method: str,
    rank: int,
    alpha: float,
    targets: str,
    components: Iterable[str],
    dropout: float,
    seed: int,
    *,
    init: str | None = None,
) -> dict[str, dict[str, torch.nn.Parameter]]:
    """Freeze the base and add a fresh adapter to each of `components`, where it can have an effect.

    Returns the trainable parameters by component and name, all fp32. What they start as follows from `seed`
    and, for SingLoRA and SymLoRA, from `init` (symdream.tuners.symmetric.INITS; None: kaiming).
    Raises: Problems if the rank is larger than a layer (naming the smallest).
    """
    modules = base.components()
    problems = [p for c in components if (p := rank_problem(modules[c], c, targets, rank))]
    if problems:
        raise Problems("the adapter", problems)
    for module in (base.vae, *modules.values()):
        module.requires_grad_(False)
    trainable: dict[str, dict[str, torch.nn.Parameter]] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for component in components:
            options = {} if init is None else {"init": init}
            config = METHODS[method].config(rank, alpha, target_modules(targets, component), dropout, **options)
            if unused := unused_layers(base, component):
                config.exclude_modules = unused
            modules[component].add_adapter(config, NAME)
            trainable[component] = {}
            for name, parameter in modules[component].named_parameters():
                if parameter.requires_grad:
                    # PEFT makes LoRA's parameters in the base's dtype; half-precision masters would not learn.
                    parameter.data = parameter.data.float()
                    trainable[component][name] = parameter
    return trainable


def attach_configured(base: Base, config: TrainConfig) -> dict[str, dict[str, torch.nn.Parameter]]:
    """`attach` with the method, rank, layers, parts and seed of these settings."""
    adapter = config.adapter
    return attach(
        base, adapter.method, adapter.rank, adapter.alpha, adapter.targets, base.chosen(adapter.components),
        adapter.dropout, config.training.seed, init=adapter.init,
    )  # fmt: skip


def rank_problem(module: torch.nn.Module, component: str, targets: str, rank: int) -> Problem | None:
    """The layer that is too small for `rank`, as a problem, or None."""
    ends = tuple(f".{name}" for name in target_modules(targets, component))
    layers = {n: m for n, m in module.named_modules() if n.endswith(ends) and isinstance(m, torch.nn.Linear)}
    name, smallest = min(layers.items(), key=lambda item: min(item[1].weight.shape))
    limit = min(smallest.weight.shape)
    if rank <= limit:
        return None
    return Problem(f"adapter.rank = {rank}", f"is larger than {component}.{name} ({limit} wide); at most {limit}")


def adapter_layers(module: torch.nn.Module) -> list[BaseTunerLayer]:
    return [m for m in module.modules() if isinstance(m, BaseTunerLayer)]


def train_adapters(base: Base, components: Iterable[str]) -> None:
    """Put the adapters of `components` into train mode, for their dropout.

    The frozen UNet stays in eval mode: it has no dropout, and in train mode diffusers' residual blocks copy what they
    read out of channels_last, which costs time and gives the same numbers. The text encoders change as a whole, since
    transformers' gradient checkpointing asks for it; they have no dropout either.
    """
    for component in components:
        module = base.components()[component]
        for part in adapter_layers(module) if component == "unet" else [module]:
            part.train()


def set_weight(base: Base, weight: float, name: str = NAME) -> None:
    """Scale adapter `name` by `weight` in every component (0: the base alone, 1: as trained)."""
    for module in base.components().values():
        for layer in adapter_layers(module):
            set_layer_weight(layer, weight, name)


def set_layer_weight(layer: BaseTunerLayer, weight: float, name: str) -> None:
    """Scale adapter `name` of this layer, if it has it, by `weight`: its B A, not a DoRA's magnitudes.

    At 0 the layer passes the adapter by, and then answers as without it to the last bit.
    """
    layer.set_scale(name, weight)
    if name in layer.scaling and (name in layer.active_adapters) != bool(weight):
        on = {*layer.active_adapters, name} if weight else {*layer.active_adapters} - {name}
        # PEFT's set_adapter would freeze or thaw parameters, too. The order is that of attaching: DoRAs depend on it.
        layer._active_adapter = [other for other in layer.scaling if other in on]


class Disabled:
    """`with Disabled(base):` the base alone answers, adapters stay attached."""

    def __init__(self, base: Base):
        self.layers = [layer for module in base.components().values() for layer in adapter_layers(module)]

    def __enter__(self) -> None:
        for layer in self.layers:
            layer.enable_adapters(False)

    def __exit__(self, *_: object) -> None:
        for layer in self.layers:
            layer.enable_adapters(True)


def save_adapters(base: Base, components: Iterable[str], folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write folder/COMPONENT/ as PEFT adapters; `metadata` goes into each file under the key `symdream`.

    `shapes` is added to it: [out, in] of every layer that is not square, which a symmetric adapter's one matrix
    does not tell, so that it can be exported without the base.
    """
    modules = base.components()
    for component in components:
        module = modules[component]
        target = folder / component
        target.mkdir(parents=True, exist_ok=True)
        state = get_peft_model_state_dict(module, adapter_name=NAME, save_embedding_layers=False)
        texts = {**metadata, "shapes": not_square(module)}
        save_tensors(
            {PEFT_PREFIX + k: v.detach().cpu().contiguous() for k, v in state.items()},
            target / WEIGHTS,
            {"format": "pt", METADATA_KEY: json.dumps(texts, ensure_ascii=False)},
        )
        config = module.peft_config[NAME]
        inference_mode, config.inference_mode = config.inference_mode, True
        config.save_pretrained(str(target))
        config.inference_mode = inference_mode


def not_square(module: torch.nn.Module) -> dict[str, list[int]]:
    """[out, in] of the symmetric layers whose sides differ, by name."""
    return {
        name: [layer.out_features, layer.in_features]
        for name, layer in module.named_modules()
        if isinstance(layer, SymmetricLinear) and layer.out_features != layer.in_features
    }


def read_metadata(file: Path) -> dict[str, Any]:
    """The `symdream` metadata of a .safetensors file, {} if it has none.

    Raises: RequestError if the file is no intact safetensors file.
    """
    try:
        with safe_open(file, "pt") as opened:
            return json.loads((opened.metadata() or {}).get(METADATA_KEY, "{}"))
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise RequestError(f"{file} is not an intact .safetensors file: {error}.") from None


def attach_saved(base: Base, folder: Path, name: str = NAME) -> dict[str, Any]:
    """Attach the PEFT adapters in folder/unet, folder/text_encoder and …_2 to the base; returns their metadata.

    An adapter that was trained with zero terminal SNR brings that noise schedule with it.

    Raises: RequestError if there is no adapter, or it does not fit this base (naming the keys).
    """
    folder = Path(folder)
    modules = base.components()
    found = [c for c in modules if (folder / c / WEIGHTS).is_file()]
    if not found:
        raise RequestError(f"No adapter in {folder}.", fix=f"name a run folder, or a folder with unet/{WEIGHTS} in it")
    metadata: dict[str, Any] = {}
    for component in found:
        file = folder / component / WEIGHTS
        metadata = read_metadata(file)
        config = PeftConfig.from_pretrained(str(folder / component))
        state = {k.removeprefix(PEFT_PREFIX): v for k, v in load_file(file).items()}
        try:
            modules[component].add_adapter(config, name)
            result = set_peft_model_state_dict(modules[component], state, adapter_name=name)
        except (RuntimeError, ValueError) as error:
            raise RequestError(
                f"The adapter {file} does not fit base {base.name}.",
                where=str(error).splitlines()[0][:300],
                fix=f"use the base it was trained on: {metadata.get('base', {}).get('identity', 'unknown')}",
            ) from error
        if result.unexpected_keys:
            raise RequestError(
                f"{len(result.unexpected_keys)} keys of {file} fit no layer of base {base.name}.",
                where=f"for example {result.unexpected_keys[0]}",
                fix=f"use the base it was trained on: {metadata.get('base', {}).get('identity', 'unknown')}",
            )
        for parameter in modules[component].parameters():
            parameter.requires_grad_(False)
    if metadata.get("zero_terminal_snr"):
        use_zero_terminal_snr(base)
    return metadata
