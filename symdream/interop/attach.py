"""Puts an adapter read from files onto models, and tells which of its layers found their place."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from peft import LoraConfig
from torch import nn

from symdream.errors import RequestError
from symdream.interop.keys import Place, with_text_model
from symdream.interop.layers import Adapter, Layer, PlainLayer, check_one_kind
from symdream.interop.metadata import most_common
from symdream.tuners import SingLoraConfig, SymLoraConfig

OTHER_BASE = "name the base it was trained on with --base"


@dataclass
class Match:
    """Layers of the file that were put on a model, those that no model has, and keys that mean nothing to us."""

    matched: list[Place] = field(default_factory=list)
    unmatched: list[Place] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        lines = [f"{len(self.matched)} layers matched"]
        for word, items in (("unmatched", self.unmatched), ("ignored", self.ignored)):
            if items:
                lines.append(f"{len(items)} {word} (such as {items[0]})")
        return "; ".join([", ".join(lines), *self.notes])


def attach_adapter(
    components: Mapping[str, nn.Module], adapter: Adapter, name: str = "default", *, fix: str = OTHER_BASE
) -> Match:
    """Add `adapter` under `name` to the models, frozen, fp32, at weight 1, and make it the active one.

    fix: what to do where it does not fit.
    LoRA and DoRA become PEFT's own layers, SingLoRA and SymLoRA symdream's.
    Raises: RequestError if no layer fits, or one has another size here (then no model is changed).
    """
    match = Match(ignored=list(adapter.ignored), notes=list(adapter.notes))
    fitting: dict[str, dict[str, Layer]] = {}
    for component in adapter.components:
        here = named_layers(components[component]) if component in components else {}
        for module, layer in adapter.of(component).items():
            place = Place(component, module)
            if module not in here:
                match.unmatched.append(place)
                continue
            check_shape(adapter, place, here[module].shape, fix)
            match.matched.append(place)
            fitting.setdefault(component, {})[here[module].name] = layer
    if not match.matched:
        raise RequestError(
            f"{adapter.name} does not match: 0 of {len(adapter.layers)} layers fit this model.",
            where=f"layers such as {match.unmatched[0]}",
            fix=fix,
        )
    if any(parameter.is_meta for component in fitting for parameter in components[component].parameters()):
        raise RequestError(
            "This model is offloaded: its weights come to a device only when they are needed, and those of an adapter "
            "could not be put there.",
            fix="load the adapter first, then enable offloading",
        )
    configs = {component: config_for(layers, adapter.name) for component, layers in fitting.items()}
    for component, layers in fitting.items():
        model = components[component]
        with warnings.catch_warnings():  # PEFT warns of a second adapter, which is what was asked for
            warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
            model.add_adapter(configs[component], name)
        fill(model, layers, name)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
    return match


@dataclass(frozen=True)
class Here:
    """A layer as the model has it: its own name, without a tuner's `base_layer`, and its weight's shape."""

    name: str
    shape: tuple[int, ...]


def named_layers(model: nn.Module) -> dict[str, Here]:
    """Linear layers and convolutions by module name as files have it, adapted or not."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and "lora_" not in name:
            name = name.replace(".base_layer", "")
            found[with_text_model(name)] = Here(name, tuple(module.weight.shape))
    return found


def check_shape(adapter: Adapter, place: Place, here: tuple[int, ...], fix: str = OTHER_BASE) -> None:
    """Raises: RequestError if the update of `place` cannot belong to a layer whose weight has the shape `here`."""
    layer = adapter.layers[place]
    if isinstance(layer, PlainLayer):
        shape = (layer.B.shape[0], *layer.A.shape[1:])
        fits, words = shape == here, in_words(shape)
    else:
        fits = len(here) == 2 and layer.A.shape[1] == max(here) and layer.rank <= min(here)
        fits = fits and (layer.shape is None or layer.shape == here)
        words = f"{layer.A.shape[1]} wide"
    if not fits:
        raise RequestError(
            f"{adapter.name} was made for another architecture.",
            where=f"{place} is {words} in the file and {in_words(here)} in this model",
            fix=fix,
        )


def in_words(shape: tuple[int, ...]) -> str:
    """A weight's shape as its layer sees it: (32, 48) -> "48 -> 32"; a convolution with its kernel."""
    kernel = f" (a convolution, {' × '.join(map(str, shape[2:]))})" if len(shape) > 2 else ""
    return f"{shape[1]} -> {shape[0]}{kernel}"


def config_for(layers: Mapping[str, Layer], name: str) -> LoraConfig | SingLoraConfig | SymLoraConfig:
    """The PEFT configuration that makes these layers (of one component, by the model's own names) of the adapter
    called `name`."""
    names = sorted(layers)
    kinds = {type(layer) for layer in layers.values()}
    first = layers[names[0]]
    if len(kinds) > 1:
        raise RequestError(f"{name} mixes LoRA with symmetric layers in one model, which cannot be attached.")
    if isinstance(first, PlainLayer):
        check_one_kind(layers.values(), name)
        rank = most_common(layer.rank for layer in layers.values())
        alpha = most_common(layer.scale * layer.rank for layer in layers.values())
        return LoraConfig(
            r=rank,
            lora_alpha=alpha,
            rank_pattern={n: x.rank for n, x in layers.items() if x.rank != rank},
            alpha_pattern={n: x.scale * x.rank for n, x in layers.items() if x.scale * x.rank != alpha},
            target_modules=names,
            use_dora=first.magnitude is not None,
        )
    settings = {(layer.rank, layer.alpha, layer.u, layer.d is None) for layer in layers.values()}
    if len(settings) > 1:
        raise RequestError(f"{name} has layers of several ranks or kinds, which symdream's own adapters never have.")
    if first.d is None:
        return SingLoraConfig(r=first.rank, alpha=first.alpha, u=first.u, target_modules=names)
    return SymLoraConfig(r=first.rank, alpha=first.alpha, target_modules=names)


@torch.no_grad()
def fill(model: nn.Module, layers: Mapping[str, Layer], name: str) -> None:
    """Give the freshly added adapter its numbers, in fp32 (fp64 stays)."""
    modules = dict(model.named_modules())
    for module_name, layer in layers.items():
        for parameter, tensor in targets(modules[module_name], layer, name):
            dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
            parameter.data = tensor.reshape(parameter.shape).to(device=parameter.device, dtype=dtype, copy=True)


def targets(module: nn.Module, layer: Layer, name: str) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Each parameter of an attached layer with the tensor that belongs in it."""
    if isinstance(layer, PlainLayer):
        pairs = [(module.lora_A[name].weight, layer.A), (module.lora_B[name].weight, layer.B)]
        if layer.magnitude is not None:
            pairs.append((module.lora_magnitude_vector[name].weight, layer.magnitude))
        return pairs
    if layer.d is None:
        return [(module.singlora_A[name], layer.A)]
    return [(module.symlora_A[name], layer.A), (module.symlora_lambda[name], layer.d)]
