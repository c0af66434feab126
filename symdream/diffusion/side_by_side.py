"""Several adapters in one batch of pictures, each drawing its own rows: the base's weights are read once for all.

    with side_by_side(base, [first, second], guided=True):
        pictures = sample(base, prompts, seeds, batch_size=len(prompts))

The first half of the pictures is the first adapter's, the second half the second's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from symdream.diffusion.base import Base
from symdream.diffusion.sampling_engine import forget
from symdream.tuners.batched import Adapter, AdapterStack, installed


@contextmanager
def side_by_side(base: Base, adapters: Sequence[Mapping[str, Adapter]], *, guided: bool) -> Iterator[None]:
    """While entered, the n-th of N equal blocks of every batch is drawn by `adapters[n]`, each by component.

    The base carries no other adapter. guided: whether pictures are drawn with guidance (above 1), which puts a second
    half of rows before the UNet, without text. All rows must go through `sample` as one batch.

    Raises: ValueError where the adapters differ in components, family, layers or shapes, or do not fit the base.
    """
    components = list(adapters[0])
    if any(list(one) != components for one in adapters):
        raise ValueError("adapters on the same components are needed")
    with ExitStack() as entered:
        forget(base.unet)  # what is recorded holds other adapters
        entered.callback(forget, base.unet)
        for component in components:
            rows = [one[component] for one in adapters] * (2 if guided and component == "unet" else 1)
            stack = AdapterStack(rows, base.device, base.dtype)
            entered.enter_context(installed(base.components()[component], stack))
        yield
