"""Gradient checkpointing (arXiv:1604.06174): activations of a block are computed again when its gradient is due."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from torch.utils.checkpoint import checkpoint

from symdream.diffusion.base import Base


def use_gradient_checkpointing(base: Base, components: Iterable[str], *, dropout: bool = False) -> None:
    """Keep only the inputs of each block of the UNet and of the text encoders that are trained.

    The UNet takes part whatever is trained, since the gradient of the text runs through it. The non-reentrant kind:
    the other one needs an input with a gradient, which a frozen UNet with adapters does not get. dropout: whether
    anything draws at random in a forward pass; only then is the generators' state kept for the second computation,
    since asking for it cannot be recorded in a CUDA graph.
    """
    how = {"use_reentrant": False, "preserve_rng_state": dropout}
    base.unet.enable_gradient_checkpointing(functools.partial(checkpoint, **how))
    for component, module in base.components().items():
        if component != "unet" and component in components:
            # The older name warns in transformers 5.23, the newer one is not in all of 5.
            new = getattr(module, "activation_checkpointing_enable", None)
            (new or module.gradient_checkpointing_enable)(how)


def checkpointed(base: Base) -> list[str]:
    """The components that keep only the inputs of their blocks now."""
    return [name for name, module in base.components().items() if _is_checkpointed(module)]


def _is_checkpointed(module) -> bool:
    # As above: transformers' older name warns, and diffusers has no other.
    new = getattr(module, "is_activation_checkpointing", None)
    return module.is_gradient_checkpointing if new is None else new


def stop_gradient_checkpointing(base: Base, components: Iterable[str]) -> None:
    """The inverse of `use_gradient_checkpointing`."""
    for component in components:
        module = base.components()[component]
        if component == "unet":
            module.disable_gradient_checkpointing()
        else:
            new = getattr(module, "activation_checkpointing_disable", None)
            (new or module.gradient_checkpointing_disable)()
            module.disable_input_require_grads()  # which the call before leaves on a model without PEFT's adapters
