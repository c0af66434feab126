"""Take adapters, and all that training changes beside them, off a base: the next one finds it as it was loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from peft.tuners.tuners_utils import BaseTunerLayer

from symdream.diffusion.base import Base
from symdream.diffusion.checkpointing import checkpointed, stop_gradient_checkpointing
from symdream.diffusion.parking import device_of, move


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


@contextmanager
def lent(base: Base) -> Iterator[None]:
    """`with lent(base):` train on it; then it is as it was before, without adapters and in eval mode.

    That is: its noise schedule, which weights ask for a gradient, gradient checkpointing, and where each model is.
    """
    models = [base.vae, *base.components().values()]
    scheduler, already = base.scheduler, checkpointed(base)
    asking = [(weight, weight.requires_grad) for model in models for weight in model.parameters()]
    places = [(model, device_of(model)) for model in models]
    try:
        yield
    finally:
        stop_gradient_checkpointing(base, [name for name in checkpointed(base) if name not in already])
        detach(base)
        base.scheduler = scheduler
        for weight, asks in asking:
            weight.requires_grad_(asks)
        for model, device in places:
            move([model], device)


def _above(name: str) -> list[str]:
    """The modules that hold `name`: "a.b.c" -> "a", "a.b"."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]
