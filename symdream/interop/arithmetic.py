"""Scaling, adding and compressing adapters. The first two are exact, the third tells its error."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from symdream.errors import RequestError
from symdream.interop.keys import Place
from symdream.interop.layers import Adapter, PlainLayer
from symdream.interop.metadata import RECOMMENDED, recommended_weight
from symdream.interop.spectrum import core_svd

if TYPE_CHECKING:
    from symdream.interop.sensitivity import Moments


def scale(adapter: Adapter, weight: float) -> Adapter:
    """The adapter whose weight 1 is `weight` of this one. A DoRA cannot be scaled: its update is not linear.

    The weight that training recommended becomes the one that gives the same update as before.
    """
    _refuse_dora(adapter, "scaled")
    plain = adapter.plain()
    metadata = dict(plain.metadata)
    if metadata.pop(RECOMMENDED, None) is not None and weight > 0:
        metadata[RECOMMENDED] = recommended_weight(plain.metadata) / weight
    layers = {p: replace(x, scale=x.scale * weight) for p, x in plain.layers.items()}
    return replace(plain, layers=layers, metadata=metadata)


def add(adapters: list[Adapter], weights: list[float]) -> Adapter:
    """sum_i w_i dW_i, exactly: [w_1 B_1, w_2 B_2, ...] [A_1; A_2; ...], so ranks add up where layers meet.

    The metadata are the first adapter's, but for the weight that its training recommended: of the sum nobody knows it.
    Raises: RequestError for DoRA, or a layer of different shapes.
    """
    for adapter in adapters:
        _refuse_dora(adapter, "added")
    parts: dict[Place, list[PlainLayer]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for place, layer in adapter.plain().layers.items():
            folded = replace(layer, scale=layer.scale * weight).folded()
            parts.setdefault(place, []).append(folded)
    metadata = {key: value for key, value in adapters[0].metadata.items() if key != RECOMMENDED}
    layers = {place: _concatenate(place, layers) for place, layers in parts.items()}
    return replace(adapters[0].plain(), layers=layers, metadata=metadata)


def _concatenate(place: Place, layers: list[PlainLayer]) -> PlainLayer:
    if len({(x.A.shape[1:], x.B.shape[0]) for x in layers}) > 1:
        raise RequestError(f"These adapters are for different architectures: {place} has another size in each.")
    layers = [layer.wide() for layer in layers]
    return PlainLayer(torch.cat([x.A for x in layers]), torch.cat([x.B for x in layers], dim=1))


def _refuse_dora(adapter: Adapter, verb: str) -> None:
    if adapter.is_dora:
        raise RequestError(
            f"A DoRA cannot be {verb}: its update is not linear in its weights.", fix="merge it: --to merged"
        )


Factored = dict[Place, tuple[np.ndarray, np.ndarray, np.ndarray]]


def factor(adapter: Adapter, moments: Mapping[Place, Moments] | None = None) -> Factored:
    """Each update as (U (out, k), s (k,), V (in, k)): it is U V^T, and the first columns of both are its best
    approximation of that rank; s, falling, is the error that leaving a column out makes.

    Without `moments` that is the thin SVD, each side with half of every singular value (which suits fp16 best). For a
    square SymLoRA layer the singular values are the |Lambda| that diagonalising A diag(Lambda) A^T gives.
    With them (symdream.interop.sensitivity) the error is that of the base's answer instead of that of the weights.
    """
    plain = adapter.plain().layers
    if any(layer.A.ndim != 2 for layer in plain.values()):
        raise RequestError("This file also adapts convolutions, which cannot be compressed.")
    factors = {}
    for place, layer in plain.items():
        B, A = layer.B.double().numpy() * layer.scale, layer.A.double().numpy()
        if moments is None:
            U, s, V = core_svd(B, A)
            factors[place] = (U * np.sqrt(s), s, V * np.sqrt(s))
        else:
            factors[place] = _weighted(B, A, moments[place])
    return factors


def _weighted(B: np.ndarray, A: np.ndarray, moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """With M of rank k in the place of I in B I A, tr(S_B (M - I) S_A (M - I)^T) is least for
    M = S_B^-1/2 P_k P_k^T S_B^1/2, where P diag(s) Q^T is the SVD of S_B^1/2 S_A^1/2."""
    root, inverse = _roots(moments.B.numpy())
    P, s, _ = np.linalg.svd(root @ _roots(moments.A.numpy())[0])
    U, V = B @ inverse @ P, (P.T @ root @ A).T
    # Small gradients make U huge and V tiny. With equal largest entries both fit fp16; the product stays as it is.
    large_U, large_V = abs(U).max(0), abs(V).max(0)
    both = (large_U > 0) & (large_V > 0)
    share = np.sqrt(np.divide(large_V, large_U, out=np.ones_like(s), where=both))
    return U * share, s, V / share


def _roots(S: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """S^1/2 and S^-1/2 of a symmetric matrix without negative eigenvalues; what is next to zero in it is lifted."""
    values, vectors = np.linalg.eigh((S + S.T) / 2)
    values = np.sqrt(np.maximum(values, max(values[-1] * 1e-10, np.finfo(float).tiny)))
    return (vectors * values) @ vectors.T, (vectors / values) @ vectors.T


def compress_to_rank(adapter: Adapter, rank: int, factors: Factored | None = None) -> Adapter:
    """Every update replaced by its best approximation of at most `rank`; `factors` are those of `factor`."""
    factors = factors or factor(adapter)
    return _truncated(adapter, factors, {place: min(rank, s.size) for place, (_, s, _) in factors.items()})


def compress_to_numbers(adapter: Adapter, budget: int, factors: Factored | None = None) -> Adapter:
    """The best update with at most `budget` numbers in A, B and magnitudes: ranks are given where they carry most.

    `factors` are those of `factor`, for calling this several times.
    A column of U and V costs in + out numbers and takes s^2 off the squared error; they are taken in the order of
    s^2 / (in + out). Layers may end with no rank at all: then they are left out. Not those of a DoRA: without a rank
    a layer would lose its trained magnitudes, too, so each has its first one before any has a second.
    Raises: RequestError if nothing fits, or nothing is there.
    """
    factors = factors or factor(adapter)
    if budget < least_numbers(adapter, factors):
        raise nothing_fits(adapter, "ask for a larger size")
    ranks = dict.fromkeys(_with_magnitudes(adapter), 1)
    budget -= _first_ranks(adapter, factors)
    offers = [
        (s[i] ** 2 / (len(U) + len(V)), -i, str(place), place, len(U) + len(V))
        for place, (U, s, V) in factors.items()
        for i in range(ranks.get(place, 0), s.size)
        if s[i] > 0
    ]
    for _, _, _, place, cost in sorted(offers, reverse=True):
        # All columns of a layer cost the same: once one did not fit, none of its smaller ones does.
        if cost <= budget:
            budget -= cost
            ranks[place] = ranks.get(place, 0) + 1
    return _truncated(adapter, factors, ranks)


def least_numbers(adapter: Adapter, factors: Factored) -> int:
    """The smallest budget of `compress_to_numbers`: one rank of one layer, or of every layer that has magnitudes.

    Raises: RequestError if every update is zero, so that no rank is worth keeping.
    """
    if _with_magnitudes(adapter):
        return _first_ranks(adapter, factors)
    costs = [len(U) + len(V) for U, s, V in factors.values() if s[0] > 0]
    if not costs:
        raise RequestError("Every update of this adapter is zero, so no rank of it is worth its place.")
    return min(costs)


def nothing_fits(adapter: Adapter, fix: str) -> RequestError:
    """That a size is too small for any part of this adapter."""
    least = "one rank and the magnitudes of each layer fit" if adapter.is_dora else "one rank of one layer fits"
    return RequestError(f"Not even {least} into that size.", fix=fix)


def _with_magnitudes(adapter: Adapter) -> list[Place]:
    return [place for place, layer in adapter.plain().layers.items() if layer.magnitude is not None]


def _first_ranks(adapter: Adapter, factors: Factored) -> int:
    """Numbers in one rank and the magnitudes of every layer that has them."""
    sizes = ((len(U), len(V)) for U, _, V in (factors[place] for place in _with_magnitudes(adapter)))
    return sum(out + (out + n_in) for out, n_in in sizes)


def _truncated(adapter: Adapter, factors: Factored, ranks: Mapping[Place, int]) -> Adapter:
    plain = adapter.plain()
    layers = {}
    for place, rank in ranks.items():
        U, _, V = (x[..., :rank] for x in factors[place])
        layers[place] = replace(
            plain.layers[place],
            A=torch.from_numpy(np.ascontiguousarray(V.T)).float(),
            B=torch.from_numpy(np.ascontiguousarray(U)).float(),
            scale=1.0,
        )
    return replace(plain, layers=layers)
