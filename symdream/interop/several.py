"""Several adapters on one base at once, of any methods."""

from __future__ import annotations

from collections.abc import Mapping

from symdream.diffusion.adapters import adapter_layers
from symdream.diffusion.base import Base
from symdream.diffusion.detach import detach
from symdream.interop.attach import OTHER_BASE, Match, attach_adapter
from symdream.interop.layers import Adapter


def attach_several(base: Base, adapters: Mapping[str, Adapter]) -> dict[str, Match]:
    """Attach all of `adapters` by name, at weight 1 and all active: their updates add up, W0 + sum_i w_i dW_i.

    (DoRA, whose update is no sum, applies to what the adapters before it left of the layer.) Set a weight with
    `symdream.diffusion.adapters.set_weight(base, weight, name)`, take all off with `symdream.diffusion.detach.detach`.
    The base must have no adapters. Returns which layers of each matched.
    Raises: RequestError as `attach_adapter` does, if one cannot be attached; then none is.
    """
    fix = OTHER_BASE if len(adapters) == 1 else "leave it out, or take one that was trained on this base"
    matches = {}
    try:
        for name, adapter in adapters.items():
            matches[name] = attach_adapter(base.components(), adapter, name, fix=fix)
    except BaseException:
        detach(base)
        raise
    for module in base.components().values():
        for layer in adapter_layers(module):
            # Attaching the next adapter switched the ones before it off.
            layer.set_adapter([name for name in adapters if name in layer.scaling], inference_mode=True)
    return matches
