"""The arithmetic of a symmetric low-rank update, apart from any model.

    dW = scale * A_out diag(d) A_in^T,    scale = weight * alpha / r

A is stored (r, n) with n = max(in, out); A_in and A_out are its first `in` and `out` columns, so that one
matrix serves both sides of a layer of any shape (SingLoRA, arXiv:2507.05566, section 4.4). d is one number
(SingLoRA: u, folded into `scale` here) or r numbers (SymLoRA: Lambda).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def init_kaiming(r: int, n: int, dtype: torch.dtype) -> Tensor:
    """A (r, n) drawn from U(-n^-1/2, n^-1/2): Kaiming with fan n, what nn.Linear(n, r) starts with.

    torch.nn.init would take the fan from dim 1 of the paper's (n, r) layout, which is r: A A^T then starts with
    a spectral norm of 39 at n = 768, r = 8, instead of 0.4.
    """
    bound = 1 / math.sqrt(n)
    return torch.empty(r, n, dtype=dtype).uniform_(-bound, bound)


def init_small(r: int, n: int, dtype: torch.dtype) -> Tensor:
    """A tenth of Kaiming's A: SingLoRA's first perturbation is a hundredth as large, so it can do without a ramp.

    Our departure from the paper. The gradient of A shrinks tenfold, not a hundredfold, and Adam rescales it.
    """
    return init_kaiming(r, n, dtype) / 10


INITS = {"kaiming": init_kaiming, "small": init_small}


def dense_delta(A: Tensor, d: Tensor | None, scale: float, out_features: int, in_features: int) -> Tensor:
    """dW (out, in): the oracle, used to merge and to test, never in a forward.

    Shapes: A (r, n), n = max(in, out); d (r,) or None for ones.
    """
    left = A[:, :out_features].T * scale
    if d is not None:
        left = left * d
    return left @ A[:, :in_features]


def lora_pair(
    A: Tensor, d: Tensor | None, scale: float, out_features: int, in_features: int, balanced: bool = False
) -> tuple[Tensor, Tensor]:
    """The same update as plain LoRA factors of rank r, exact up to rounding: dW = B A.

        plain:     A = A_in^T,                                B = scale * A_out diag(d)
        balanced:  A = |scale d|^1/2 * A_in^T  (by row),      B = A_out sign(scale d) |scale d|^1/2  (by column)

    `balanced` shares the magnitudes between both factors, so that neither leaves fp16's range. The sign of d
    stays in B. LoRA's own scale (alpha / r) is 1 for this pair.

    Shapes: A (r, n), d (r,) or None -> (A (r, in), B (out, r)).
    """
    weights = A.new_full((A.shape[0],), scale) if d is None else d * scale
    A_in, A_out = A[:, :in_features], A[:, :out_features].T
    if balanced:
        root = weights.abs().sqrt()
        return (root[:, None] * A_in).contiguous(), (A_out * (root * weights.sign())).contiguous()
    return A_in.contiguous(), (A_out * weights).contiguous()
