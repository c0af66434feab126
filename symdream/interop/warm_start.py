"""Starts a training from an adapter that is there already."""

from __future__ import annotations

from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from symdream.diffusion.base import Base
from symdream.errors import RequestError
from symdream.interop.attach import Match, check_shape
from symdream.interop.keys import Place, with_text_model
from symdream.interop.layers import Layer, PlainLayer
from symdream.interop.read import read_adapter
from symdream.tuners import SingLoraLinear, SymLoraLinear


def warm_start(base: Base, path: Path, name: str = "default") -> Match:
    """Give the freshly attached adapter of `base` the update of the one at `path`, exactly; call before training.

    into LoRA, LoRA+, DoRA  from LoRA files of any layout, of at most this rank (the ranks left over stay as they
                            start: A random, B zero); DoRA's magnitudes become the row norms of W0 + B A, so that it
                            starts as the LoRA. DoRA only from DoRA.
    into SymLoRA            from SymLoRA of at most this rank, and from SingLoRA (Lambda = u, the same for all)
    into SingLoRA           from SingLoRA of this rank. dW is quadratic in A, so that A takes the root of what the
                            strengths differ by: A sqrt(u alpha / alpha'), alpha' this run's, whose own u is 1.
                            Train it with ramp 0: a ramp would begin without the update.

    Raises: RequestError if nothing matches, a rank is too large, or the kinds do not go together; no parameter has
    been changed then.
    """
    adapter = read_adapter(path)
    match = Match(ignored=list(adapter.ignored), notes=list(adapter.notes))
    layers = {
        Place(component, with_text_model(module_name)): module
        for component, model in base.components().items()
        for module_name, module in model.named_modules()
        if isinstance(module, BaseTunerLayer) and name in getattr(module, "r", {})
    }
    writes = []
    for place, layer in adapter.layers.items():
        if place not in layers:
            match.unmatched.append(place)
            continue
        module = layers[place]
        check_shape(adapter, place, tuple(module.get_base_layer().weight.shape))
        writes += _writes(place, layer, module, name)
        match.matched.append(place)
    if not match.matched:
        raise RequestError(
            f"Nothing to start from: none of the {len(adapter.layers)} layers of {path} is trained in this run.",
            where=f"layers such as {match.unmatched[0]}",
            fix="choose --targets and --components as that adapter has them",
        )
    with torch.no_grad():
        for parameter, value in writes:
            parameter.copy_(value)
    return match


def _writes(place: Place, layer: Layer, module: nn.Module, name: str) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Which parameter gets which numbers."""
    rank = module.r[name]
    if layer.rank > rank:
        raise RequestError(
            f"The adapter to start from has rank {layer.rank}, this run trains rank {rank}.",
            where=str(place),
            fix=f"train with --rank {layer.rank}, or compress it: symdream export FILE --compress {rank}",
        )
    if isinstance(module, LoraLayer) and isinstance(layer, PlainLayer):
        return _into_lora(layer, module, name)
    if isinstance(module, SymLoraLinear) and not isinstance(layer, PlainLayer):
        return _into_symlora(layer, module, name)
    if isinstance(module, SingLoraLinear) and not isinstance(layer, PlainLayer) and layer.d is None:
        return _into_singlora(layer, module, name)
    kind = "a LoRA" if isinstance(layer, PlainLayer) else "a SingLoRA" if layer.d is None else "a SymLoRA"
    raise RequestError(
        f"{type(module).__name__.removesuffix('Linear')} cannot start from {kind}: it cannot express its update.",
        fix="train with the method of that adapter",
    )


def _into_lora(layer: PlainLayer, module: nn.Module, name: str) -> list[tuple[nn.Parameter, torch.Tensor]]:
    A, B = module.lora_A[name].weight, module.lora_B[name].weight
    scale = module.lora_alpha[name] / module.r[name]
    new_A, new_B = A.detach().clone(), torch.zeros_like(B)
    new_A[: layer.rank] = layer.A.to(new_A)
    new_B[:, : layer.rank] = (layer.B.double() * (layer.scale / scale)).to(new_B)
    writes = [(A, new_A), (B, new_B)]
    has_magnitude = name in module.lora_magnitude_vector
    if layer.magnitude is not None and not has_magnitude:
        raise RequestError(
            "LoRA cannot start from a DoRA: it cannot express its update.", fix="train with --method dora"
        )
    if has_magnitude:
        magnitude = module.lora_magnitude_vector[name].weight
        if layer.magnitude is not None:
            writes.append((magnitude, layer.magnitude))
        else:
            weight = module.get_base_layer().weight.detach().float()
            writes.append((magnitude, (weight + scale * new_B.float() @ new_A.float()).norm(dim=1)))
    return writes


def _into_singlora(layer, module: SingLoraLinear, name: str) -> list[tuple[nn.Parameter, torch.Tensor]]:
    if layer.rank != module.r[name]:
        raise RequestError(
            f"SingLoRA starts only from the same rank: {layer.rank} in the file.",
            fix=f"train with --rank {layer.rank}, or with --method symlora",
        )
    A = module.singlora_A[name]
    ratio = layer.scale / (module.alpha[name] / module.r[name])
    if not ratio > 0:
        raise RequestError(
            f"The adapter to start from has no update to go on from: its strength is {layer.scale:g} "
            f"(alpha {layer.alpha:g}, u {layer.u:g}).",
            fix="start from a later step of that run, or leave --start-from out",
        )
    return [(A, (layer.A.double() * ratio**0.5).to(A))]


def _into_symlora(layer, module: SymLoraLinear, name: str) -> list[tuple[nn.Parameter, torch.Tensor]]:
    A, Lambda = module.symlora_A[name], module.symlora_lambda[name]
    new_A, new_Lambda = A.detach().clone(), torch.zeros_like(Lambda)
    new_A[: layer.rank] = layer.A.to(new_A)
    ratio = layer.scale / (module.alpha[name] / module.r[name])
    new_Lambda[: layer.rank] = ratio * (1.0 if layer.d is None else layer.d.to(new_Lambda))
    return [(A, new_A), (Lambda, new_Lambda)]
