"""Which weight of a base is NaN or infinite: asked when a loss, latents or a picture are, before anything else is
blamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import nn

from symdream.errors import WorkError

if TYPE_CHECKING:
    from symdream.diffusion.base import Base


def damaged_weight(parts: Mapping[str, nn.Module]) -> str | None:
    """The first weight of the base with a number that is not finite, such as "unet.conv_in.weight"; None: there is
    none. Adapters on the base do not count."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for part, module in parts.items():
        adapters = tuple(
            f"{name}.{kind}."
            for name, layer in module.named_modules()
            if isinstance(layer, BaseTunerLayer)
            for kind in layer.adapter_layer_names
        )
        for name, tensor in module.state_dict().items():
            if not name.startswith(adapters) and not tensor.isfinite().all():
                return f"{part}.{name.replace('.base_layer', '')}"
    return None


def refuse_damaged(base: Base) -> None:
    """Raises: WorkError if a weight of the base is not finite."""
    if weight := damaged_weight({**base.components(), "vae": base.vae}):
        raise damaged(weight, base.name)


def damaged(weight: str, base: str | None = None) -> WorkError:
    return WorkError(
        f"The base{f' {base}' if base else ''} is damaged: {weight} holds NaN or infinite numbers.",
        where=weight,
        fix="get its files anew (symdream base check compares those it has checksums of), or choose another base",
    )
