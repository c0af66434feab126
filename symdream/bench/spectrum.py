"""The spectrum of a learned update, layer by layer, from its low-rank factors alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from symdream.diffusion.adapters import NAME
from symdream.diffusion.base import Base
from symdream.interop.collect import collect
from symdream.interop.spectrum import singular_values
from symdream.tuners.layer import SymLoraLinear


def spectrum_of(base: Base) -> list[dict[str, Any]]:
    """One entry a layer of the adapter on `base` as results.json holds them, largest singular value first.

    effective_rank = exp(-sum p_i ln p_i), p = s / sum s (Roy and Vetterli, 2007).
    eigen_negative_share = sum |e_i < 0| / sum |e_i| over the eigenvalues e of the update's symmetric part, for square
    layers (null elsewhere): 0 for SingLoRA, whose A A^T has none; a general matrix has half of each.
    lambda: SymLoRA's diagonal, times alpha / r, by falling size (null for the others).
    """
    components = base.components()
    found = []
    for place, layer in collect(components).layers.items():
        A, B = layer.A.double().numpy(), layer.B.double().numpy() * layer.scale
        values = singular_values(B, A)
        total = float(values.sum())
        shares = values[values > 0] / total if total else np.empty(0)
        square = B.shape[0] == A.shape[1]
        found.append(
            {
                "component": place.component,
                "layer": place.module,
                "shape": [B.shape[0], A.shape[1]],
                "singular_values": short(values),
                "eigen_negative_share": negative_share(B, A) if square and total else None,
                "effective_rank": round(float(np.exp(-(shares * np.log(shares)).sum())), 3) if total else 0.0,
            }
        )
    return with_lambda(base, found)


def negative_share(B: np.ndarray, A: np.ndarray) -> float:
    """sum |e_i < 0| / sum |e_i|, e the eigenvalues of (BA + A^T B^T) / 2; B (n, r), A (r, n).

    With [B A^T] = Q R, the symmetric part is Q (R [[0, I/2], [I/2, 0]] R^T) Q^T: a 2r x 2r problem.
    """
    rank = len(A)
    R = np.linalg.qr(np.hstack([B, A.T]), mode="r")
    swap = np.zeros((2 * rank, 2 * rank))
    swap[:rank, rank:] = swap[rank:, :rank] = np.eye(rank) / 2
    values = np.linalg.eigvalsh(R @ swap @ R.T)
    size = np.abs(values).sum()
    # What rounding makes of a zero eigenvalue is no part of the update.
    negative = np.abs(values[values < -1e-12 * size]).sum()
    return round(float(negative / size), 4) if size else 0.0


def with_lambda(base: Base, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add SymLoRA's signed diagonal to the entries, which stand in the order of the layers."""
    layers = [m for c in base.components().values() for m in c.modules() if isinstance(m, SymLoraLinear)]
    if layers:
        for entry, layer in zip(entries, layers, strict=True):
            diagonal = layer.symlora_lambda[NAME].detach().cpu() * (layer.alpha[NAME] / layer.r[NAME])
            entry["lambda"] = short(sorted(diagonal.tolist(), key=abs, reverse=True))
    return entries


def short(values) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
