"""N adapters of one shape on one model at once: each answers for its own rows of the batch.

    y_n = W0 x_n + b + s_n A_out,n diag(d_n) A_in,n^T x_n        SingLoRA (d = u) and SymLoRA (d = Lambda)
    y_n = W0 x_n + b + s_n B_n A_n x_n                           LoRA, LoRA+
    y_n = g_n * (W0 x_n + s_n B_n A_n x_n) + b                   DoRA, g_n = m_n / ||W0 + s_n B_n A_n||, row by row

x_n are the n-th of N equal blocks of the batch's rows. The base's product is one product over all rows, so its weights
are read once; the thin products are batched over n. What all adapters train lies in one matrix (N, P), so that casting,
clipping and AdamW each are a few operations, whatever the number of layers, and rows never mix.

Methods of one family share a stack: "lora", "lora+" and "dora"; "singlora" and "symlora".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod

import torch
from torch import Tensor, nn

FAMILIES = {"lora": "lora", "lora+": "lora", "dora": "lora", "singlora": "symmetric", "symlora": "symmetric"}

# What PEFT's parameters are to a stack; a name is LAYER.KIND.ADAPTER[.weight].
KINDS = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_magnitude_vector": "magnitude",
    "singlora_A": "A",
    "symlora_A": "A",
    "symlora_lambda": "lambda",
}


@dataclass(frozen=True)
class StackedAdapter:
    """One adapter on one model: its method, s = weight · alpha / r, its parameters by PEFT's names, SingLoRA's u."""

    method: str
    scaling: float
    parameters: Mapping[str, Tensor] = field(repr=False)
    u: float = 1.0


def layer_and_kind(name: str) -> tuple[str, str]:
    """(layer, kind) of a parameter by PEFT's name. Raises: ValueError for a name of no method."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part in KINDS:
            return ".".join(parts[:i]), KINDS[part]
    raise ValueError(f"{name} belongs to no method that can be batched ({', '.join(FAMILIES)})")


class AdapterStack:
    """N adapters of one family for one model, as one trained matrix `values` (N, P), fp32.

    u, scaling (N,) are fixed tensors that may be filled anew at any time. `refresh()` comes before every forward that
    follows a change of `values`: it casts them to the base's dtype and cuts them into the layers' parts, once for all.

    Raises: ValueError where the adapters differ in family, layers, ranks or shapes.
    """

    def __init__(self, adapters: Sequence[StackedAdapter], device: torch.device, dtype: torch.dtype):
        families = {FAMILIES.get(adapter.method, adapter.method) for adapter in adapters}
        if len(families) != 1 or not families <= set(FAMILIES.values()):
            raise ValueError(f"adapters of one family are needed, not of {', '.join(sorted(families)) or 'none'}")
        self.count, self.dtype = len(adapters), dtype
        [self.family] = families
        self.methods = [adapter.method for adapter in adapters]
        self.shapes: dict[tuple[str, str], tuple[int, ...]] = {}
        for adapter in adapters:
            for name, value in adapter.parameters.items():
                key, shape = layer_and_kind(name), tuple(value.shape)
                if self.shapes.setdefault(key, shape) != shape:
                    raise ValueError(f"{name} is {shape}, in another adapter {self.shapes[key]}: one shape is needed")
        layers = {layer for layer, _ in self.shapes}
        for adapter in adapters:
            if {layer_and_kind(name)[0] for name in adapter.parameters} != layers:
                raise ValueError("adapters on the same layers are needed")
        self.sizes = [prod(shape) for shape in self.shapes.values()]
        self.values = nn.Parameter(torch.zeros(self.count, sum(self.sizes), device=device))
        self.u = torch.tensor([adapter.u for adapter in adapters], device=device)
        self.scaling = torch.tensor([adapter.scaling for adapter in adapters], device=device)
        self.ramped = torch.tensor([[method == "singlora"] for method in self.methods], device=device)
        self.magnified = torch.tensor([[method == "dora"] for method in self.methods], device=device)
        self.any_magnified = "dora" in self.methods  # on the host: no forward may ask the device
        self.parts: dict[tuple[str, str], Tensor] = {}
        for row, adapter in enumerate(adapters):
            self.write(row, adapter.parameters)
        self.refresh()

    @property
    def layers(self) -> list[str]:
        return list(dict.fromkeys(layer for layer, _ in self.shapes))

    def columns(self) -> Iterator[tuple[tuple[str, str], slice]]:
        """((layer, kind), the columns of `values` that hold it)."""
        start = 0
        for key, size in zip(self.shapes, self.sizes, strict=True):
            yield key, slice(start, start + size)
            start += size

    @torch.no_grad()
    def write(self, row: int, parameters: Mapping[str, Tensor]) -> None:
        """Set the row-th adapter. A kind that its method does not train stays 0 and gets no gradient."""
        given = {layer_and_kind(name): value for name, value in parameters.items()}
        for key, columns in self.columns():
            if key in given:
                self.values[row, columns] = given[key].detach().flatten().to(self.values)

    def read(self, row: int, names: Sequence[str]) -> dict[str, Tensor]:
        """The row-th adapter's parameters (copies, fp32), by PEFT's names."""
        where = dict(self.columns())
        found = {}
        for name in names:
            key = layer_and_kind(name)
            found[name] = self.values.detach()[row, where[key]].view(self.shapes[key]).clone()
        return found

    def refresh(self) -> None:
        # Before the new ones are made: alive, the old ones would keep the stream on which autograd adds to `values`,
        # and a CUDA graph can be recorded on its own stream only.
        self.parts.clear()
        parts = self.values.to(self.dtype).split(self.sizes, dim=1)
        self.parts = {
            key: part.view(self.count, *shape) for (key, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def d(self, layer: str) -> Tensor:
        """s_n d_n, what stands between the two products: (N, r), or (N, 1) for LoRA."""
        if self.family == "lora":
            return self.scaling[:, None]
        r = self.shapes[layer, "A"][0]
        d = self.u[:, None].expand(-1, r)
        if (layer, "lambda") in self.parts:
            d = torch.where(self.ramped, d, self.parts[layer, "lambda"])
        return self.scaling[:, None] * d


class BatchedLinear(nn.Module):
    """A frozen linear layer under N adapters: x (N·b, ..., in) -> (N·b, ..., out), the n-th b rows by the n-th."""

    def __init__(self, base_layer: nn.Linear, stack: AdapterStack, name: str):
        super().__init__()
        self.base_layer, self.stack, self.name = base_layer, stack, name
        if stack.any_magnified:
            self.register_buffer("squares", base_layer.weight.detach().float().square().sum(1), persistent=False)

    def forward(self, x: Tensor, *args: object) -> Tensor:
        stack, linear = self.stack, self.base_layer
        count, n_in, n_out = stack.count, linear.in_features, linear.out_features
        A = stack.parts[self.name, "A"]
        if stack.family == "lora":
            A_in, A_out = A, stack.parts[self.name, "B"].mT
        else:
            A_in, A_out = A[..., :n_in], A[..., :n_out]
        rows = x.reshape(count, -1, n_in)
        h = torch.bmm(rows.to(A.dtype), A_in.mT)
        h = (h * stack.d(self.name)[:, None]).to(A.dtype)
        result = linear(x).reshape(count, -1, n_out)
        updated = torch.baddbmm(result, h, A_out)
        if stack.any_magnified:
            updated = self._magnified(updated, A_in, A_out)
        return updated.view(*x.shape[:-1], n_out).to(x.dtype)

    def _magnified(self, updated: Tensor, A: Tensor, B: Tensor) -> Tensor:
        """DoRA's rows: g (updated - b) + b. The norm is left out of the gradient (arXiv:2402.09353, section 4.3)."""
        bias = self.base_layer.bias
        with torch.no_grad():
            # ||W + s B A||² by rows without the matrix: W² + 2 s (W A^T) · B + s² (B A A^T) · B
            s, A, B = self.stack.scaling[:, None, None], A.float(), B.mT.float()
            mixed = torch.matmul(self.base_layer.weight.float(), A.mT)  # (N, out, r)
            squares = self.squares + ((2 * mixed + s * (B @ (A @ A.mT))) * (s * B)).sum(-1)
            norm = squares.clamp_min(0).sqrt()
        g = self.stack.parts[self.name, "magnitude"] / norm.to(updated.dtype)
        g = torch.where(self.stack.magnified, g, 1.0)[:, None].to(updated.dtype)
        return g * updated if bias is None else g * (updated - bias) + bias


@contextmanager
def installed(model: nn.Module, stack: AdapterStack) -> Iterator[None]:
    """While entered, the stack's layers of `model` answer with their adapters; then they are as before.

    Raises: ValueError where a layer is no plain nn.Linear, or its shape is not the adapters'.
    """
    before = {name: model.get_submodule(name) for name in stack.layers}
    for name, layer in before.items():
        if type(layer) is not nn.Linear:
            raise ValueError(f"{name} is a {type(layer).__name__}; take other adapters off first")
        sides = (layer.in_features, layer.out_features)
        A = stack.shapes[name, "A"]
        fits = A[1] == max(sides) if stack.family == "symmetric" else (A[1], stack.shapes[name, "B"][0]) == sides
        if not fits:
            raise ValueError(f"{name} is {sides[0]} -> {sides[1]}; the adapters were made for another shape")
    try:
        for name, layer in before.items():
            replace(model, name, BatchedLinear(layer, stack, name))
        yield
    finally:
        for name, layer in before.items():
            replace(model, name, layer)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
