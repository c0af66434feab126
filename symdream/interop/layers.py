"""An adapter apart from any model: for each layer, the numbers that make its update."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from symdream.errors import RequestError
from symdream.interop.keys import COMPONENTS, Place
from symdream.tuners.symmetric import lora_pair


@dataclass(frozen=True)
class PlainLayer:
    """LoRA: dW = scale * B A. With a magnitude m, DoRA: W' = m (W0 + dW) / ||W0 + dW||, row by row.

    Shapes: A (r, in), B (out, r), magnitude (out,) or None. A convolution's, which only imports have, are
    A (r, in, k, k) and B (out, r, 1, 1), without magnitude.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    def tensors(self) -> list[Tensor]:
        return [t for t in (self.A, self.B, self.magnitude) if t is not None]

    def to(self, dtype: torch.dtype) -> PlainLayer:
        return self.each(lambda t: t.to(dtype))

    def each(self, change: Callable[[Tensor], Tensor]) -> PlainLayer:
        magnitude = None if self.magnitude is None else change(self.magnitude)
        return replace(self, A=change(self.A), B=change(self.B), magnitude=magnitude)

    def folded(self) -> PlainLayer:
        """The same update with the scale inside B, which is then at least fp32: fp16 would lose small numbers."""
        return self if self.scale == 1 else replace(self.wide(), B=wide(self.B) * self.scale, scale=1.0)

    def wide(self) -> PlainLayer:
        """In fp32, or fp64 where it is."""
        return self.each(wide)


def wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


@dataclass(frozen=True)
class SymmetricLayer:
    """SingLoRA: dW = (alpha / r) u A_out A_in^T. SymLoRA: dW = (alpha / r) A_out diag(d) A_in^T, d = Lambda, u = 1.

    Shapes: A (r, max(in, out)), d (r,) or None for SingLoRA. `shape` is (out, in), None if the file does not tell it.
    """

    A: Tensor
    d: Tensor | None
    alpha: float
    u: float = 1.0
    shape: tuple[int, int] | None = None

    @property
    def rank(self) -> int:
        return self.A.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank * self.u

    def tensors(self) -> list[Tensor]:
        return [self.A] if self.d is None else [self.A, self.d]

    def plain(self) -> PlainLayer:
        """The same update as LoRA, in closed form (symdream.tuners.symmetric.lora_pair). Needs `shape`."""
        A, B = lora_pair(self.A, self.d, self.scale, *self.shape)
        return PlainLayer(A, B)


Layer = PlainLayer | SymmetricLayer


def check_one_kind(layers: Iterable[PlainLayer], name: str) -> None:
    """Raises: RequestError if some of the layers of one component have magnitudes and others have none. `name` is the
    adapter's."""
    if len({layer.magnitude is not None for layer in layers}) > 1:
        raise RequestError(
            f"{name} mixes LoRA with DoRA layers in one model, which PEFT cannot attach, nor diffusers load.",
            fix="use the tool it was trained with",
        )


@dataclass
class Adapter:
    """Layers by place, the `symdream` metadata, and where they came from.

    `layout` is the file's: diffusers, peft, kohya, comfyui or native. `ignored` lists keys that could not be used,
    `notes` what a user should know about the file. `texts` is the file's header, of whatever program.
    `name` is what messages call the adapter, at the beginning of a sentence.
    """

    layers: dict[Place, Layer]
    metadata: dict[str, Any] = field(default_factory=dict)
    layout: str = "native"
    ignored: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    name: str = "This adapter"

    @property
    def components(self) -> list[str]:
        present = {place.component for place in self.layers}
        return [c for c in COMPONENTS if c in present]

    def of(self, component: str) -> dict[str, Layer]:
        """Layers of one component by module name."""
        return {place.module: layer for place, layer in self.layers.items() if place.component == component}

    @property
    def is_dora(self) -> bool:
        return any(isinstance(layer, PlainLayer) and layer.magnitude is not None for layer in self.layers.values())

    def plain(self) -> Adapter:
        """Every layer as LoRA (or DoRA)."""
        layers = {p: x.plain() if isinstance(x, SymmetricLayer) else x for p, x in self.layers.items()}
        return replace(self, layers=layers)
