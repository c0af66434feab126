"""Norms and singular values of low-rank updates, without ever forming a matrix of the layer's size.

    B = Q_B R_B,  A^T = Q_A R_A,   B A = Q_B (R_B R_A^T) Q_A^T

so all that is asked about B A is asked about the r x r core. numpy in float64: `inspect` needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def core_svd(B: np.ndarray, A: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The thin SVD of B A: U (out, k), s (k,) falling, V (in, k), k = at most r. B (out, r), A (r, in)."""
    Q_B, R_B = np.linalg.qr(np.asarray(B, dtype=np.float64))
    Q_A, R_A = np.linalg.qr(np.asarray(A, dtype=np.float64).T)
    P, s, Vt = np.linalg.svd(R_B @ R_A.T)
    return Q_B @ P[:, : s.size], s, Q_A @ Vt[: s.size].T


def singular_values(B: np.ndarray, A: np.ndarray) -> np.ndarray:
    """Those of B A, falling."""
    R_B = np.linalg.qr(np.asarray(B, dtype=np.float64), mode="r")
    R_A = np.linalg.qr(np.asarray(A, dtype=np.float64).T, mode="r")
    return np.linalg.svd(R_B @ R_A.T, compute_uv=False)


def relative_error(wanted: Mapping, stored: Mapping) -> float:
    """How far adapters are from each other: the larger of ||dW' - dW|| / ||dW|| (Frobenius, over all layers together)
    and, for DoRA, ||m' - m|| / ||m||. `wanted` and `stored` are PlainLayers by place."""
    difference = norm = m_difference = m_norm = 0.0
    for place, layer in wanted.items():
        other = stored[place]
        B, A = _double(layer.B) * layer.scale, _double(layer.A)
        B2, A2 = _double(other.B) * other.scale, _double(other.A)
        difference += float(np.sum(singular_values(np.hstack([B2, -B]), np.vstack([A2, A])) ** 2))
        norm += float(np.sum(singular_values(B, A) ** 2))
        if layer.magnitude is not None:
            m, m2 = _double(layer.magnitude), _double(other.magnitude)
            m_difference += float(np.sum((m2 - m) ** 2))
            m_norm += float(np.sum(m**2))
    return max((difference / norm) ** 0.5 if norm else 0.0, (m_difference / m_norm) ** 0.5 if m_norm else 0.0)


def _double(tensor) -> np.ndarray:
    return (tensor.flatten(1) if tensor.ndim > 2 else tensor).detach().double().numpy()
