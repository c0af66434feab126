"""Take adapters off a base, so that the next one finds it as it was loaded."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer

from symdream.diffusion.base import Base


def detach(base: Base) -> None:
    """Put every adapted layer's own layer back in its place and forget the adapters' configs.

    The weights of the base were never changed by an adapter that was not merged, so it is bit for bit what it was.
    """
    for module in base.components().values():
        adapted = {name: layer for name, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)}
        for name, layer in adapted.items():
            if any(outer in adapted for outer in _above(name)):
                continue  # adapters of two kinds wrap each other; the outermost gives the base's own layer
            parent, _, child = name.rpartition(".")
            setattr(module.get_submodule(parent), child, layer.get_base_layer())
        if adapted:
            del module.peft_config
            module._hf_peft_config_loaded = False
        module.eval()


def _above(name: str) -> list[str]:
    """The modules that hold `name`: "a.b.c" -> "a", "a.b"."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
