"""Models that a run does not need for a while wait in the computer's memory instead of the GPU's.

While training, that is the VAE once all photos are encoded, and the text encoders where they are frozen and every
caption is encoded. Who needs them all (sampling) takes them back for as long as it lasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from symdream.diffusion.base import Base


def park(modules: Iterable[nn.Module]) -> None:
    """Move modules to the computer's memory, and give the GPU's back."""
    move(modules, torch.device("cpu"))
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextmanager
def all_present(base: Base) -> Iterator[None]:
    """`with all_present(base):` every model of the base is where its UNet is; then the parked ones go back."""
    parked = [m for m in (base.vae, *base.text_encoders) if device_of(m) != base.device]
    move(parked, base.device)
    try:
        yield
    finally:
        if parked:
            park(parked)


def move(modules: Iterable[nn.Module], device: torch.device) -> None:
    # Weights that are moved in inference mode could never again take part in training.
    with torch.inference_mode(False):
        for module in modules:
            # nn.Module's own `to`: diffusers' override warns about a list of modules that is empty here.
            nn.Module.to(module, device=device)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Change the number format of a module's weights, as `move` moves them."""
    with torch.inference_mode(False):
        nn.Module.to(module, dtype=dtype)


def device_of(module: nn.Module) -> torch.device:
    return next(module.parameters()).device
