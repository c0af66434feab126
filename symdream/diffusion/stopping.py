"""Ends the making of pictures in the middle of a step, which on a CPU can take many seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import nn

from symdream.errors import Stopped


@contextmanager
def stoppable(unet: nn.Module, stop: Callable[[], bool] | None) -> Iterator[None]:
    """Meanwhile `stop()` is asked before every block of the UNet. On CUDA, whose step is one recorded graph of some
    milliseconds, no block is called, and asking between steps (`ask`) is enough.

    Raises: Stopped, from within, as soon as it says True.
    """
    blocks = [] if stop is None or next(unet.parameters()).is_cuda else _blocks(unet)
    hooks = [block.register_forward_pre_hook(lambda *_: ask(stop)) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _blocks(unet: nn.Module) -> list[nn.Module]:
    return [*unet.down_blocks, unet.mid_block, *unet.up_blocks]


def ask(stop: Callable[[], bool] | None) -> None:
    """Raises: Stopped if `stop` says so."""
    if stop is not None and stop():
        raise Stopped("Stopped as asked; the pictures that were not finished are gone.")
