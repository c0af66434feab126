"""From a model with adapters attached to an adapter apart from any model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from symdream.errors import RequestError
from symdream.interop.keys import Place, with_text_model
from symdream.interop.layers import Adapter, Layer, PlainLayer
from symdream.tuners import SymmetricLinear


def collect(
    components: Mapping[str, nn.Module], name: str = "default", metadata: Mapping[str, Any] | None = None
) -> Adapter:
    """The adapter called `name` on these models, at weight 1, as LoRA or DoRA.

    Weights set by set_scale or set_adapters are left out, u and alpha / r are in. The tensors are copies on the CPU.
    Raises: RequestError if no model has such an adapter, or it sits on a layer that is not linear.
    """
    layers: dict[Place, Layer] = {}
    for component, model in components.items():
        for module_name, module in model.named_modules():
            if isinstance(module, BaseTunerLayer) and name in getattr(module, "r", {}):
                place = Place(component, with_text_model(module_name.replace(".base_layer", "")))
                layers[place] = _plain(module, name, place)
    if not layers:
        raise RequestError(f"No adapter called {name!r} is attached to {', '.join(components)}.")
    return Adapter(layers, dict(metadata or {}))


def _plain(module: BaseTunerLayer, name: str, place: Place) -> PlainLayer:
    if isinstance(module, SymmetricLinear):
        A, B = module.lora_factors(name)
        return PlainLayer(A.cpu().clone(), B.cpu().clone())
    if not isinstance(module, LoraLayer) or not isinstance(module.get_base_layer(), nn.Linear):
        raise RequestError(f"{place} carries a {type(module).__name__}, which no LoRA file of linear layers can hold.")
    rank, alpha = module.r[name], module.lora_alpha[name]
    # The layer's own scaling holds the user's weight as well; what was trained is alpha over r.
    scale = alpha / math.sqrt(rank) if module.use_rslora.get(name) else alpha / rank
    magnitude = None
    if name in module.lora_magnitude_vector:
        magnitude = module.lora_magnitude_vector[name].weight.detach().cpu().clone()
    A, B = module.lora_A[name].weight, module.lora_B[name].weight
    return PlainLayer(A.detach().cpu().clone(), B.detach().cpu().clone(), scale, magnitude)
