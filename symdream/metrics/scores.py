"""The scores, as pure functions on embeddings.

Embeddings are [N, D] floating tensors, one row an image or a text; rows need not have length 1. Arithmetic is
float64. cos(x, y) = x·y / (|x| |y|). Every function raises ValueError for an empty set, a wrong shape, a row of
zeros or a number that is not finite: such a score would mean nothing.

Sources: DreamBooth (Ruiz et al. 2023, arXiv:2208.12242) for DINO, CLIP-I and CLIP-T; CLIP (Radford et al. 2021,
arXiv:2103.00020); DINO (Caron et al. 2021, arXiv:2104.14294). Drift, diversity and memorisation are our choices,
in the spirit of DreamBooth's PRES and DIV, with these encoders in place of LPIPS.
"""

from __future__ import annotations

import torch
from torch import Tensor

COPY = 0.995  # cosine of photos above which they are one picture, saved twice


def cosines(x: Tensor, y: Tensor) -> Tensor:
    """cos(x_i, y_j) for all pairs: [N, D], [M, D] -> [N, M] float64."""
    x, y = _unit(x), _unit(y)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"embeddings of widths {x.shape[1]} and {y.shape[1]} come from different encoders")
    return (x @ y.T).clamp(-1, 1)


def paired_cosines(x: Tensor, y: Tensor) -> Tensor:
    """cos(x_i, y_i) row by row: [N, D], [N, D] -> [N] float64."""
    x, y = _unit(x), _unit(y)
    if x.shape != y.shape:
        raise ValueError(f"pairs need equal shapes, not {tuple(x.shape)} and {tuple(y.shape)}")
    return (x * y).sum(1).clamp(-1, 1)


def subject_fidelity(gen: Tensor, ref: Tensor) -> float:
    """(1 / NM) sum_i sum_j cos(gen_i, ref_j): the mean over all generated x reference pairs, in [-1, 1].

    gen [N, D], ref [M, D]. DINO and CLIP-I are this number, each on its encoder's embeddings (DreamBooth, section 4.2).
    """
    return float(cosines(gen, ref).mean())


def dino_score(gen: Tensor, ref: Tensor) -> float:
    """DINO: `subject_fidelity` of DINO's [CLS] embeddings, gen [N, D] and ref [M, D]."""
    return subject_fidelity(gen, ref)


def clip_i(gen: Tensor, ref: Tensor) -> float:
    """CLIP-I: `subject_fidelity` of CLIP's image embeddings, gen [N, D] and ref [M, D]."""
    return subject_fidelity(gen, ref)


def clip_t(image_emb: Tensor, text_emb: Tensor) -> float:
    """(1 / N) sum_i cos(image_i, text_i): each image with its own prompt, both [N, D], in [-1, 1].

    The raw cosine (about .3 for CLIP ViT-B/32), not CLIPScore's 2.5 max(cos, 0) (Hessel et al. 2021, arXiv:2104.08718).
    """
    return float(paired_cosines(image_emb, text_emb).mean())


def real_vs_real(ref: Tensor) -> float:
    """(1 / M(M-1)) sum_{i != j} cos(ref_i, ref_j): what the photos score against each other, ref [M, D], M >= 2.

    Without the self-pairs, each of which would count as a perfect 1.
    """
    return float(_other_pairs(ref).mean())


def diversity(emb: Tensor) -> float:
    """(1 / N(N-1)) sum_{i != j} (1 - cos(e_i, e_j)): mean distance among outputs, emb [N, D], N >= 2, in [0, 2].

    0: all outputs alike. Compare it only among sets made from the same prompts and seeds.
    """
    return float((1 - _other_pairs(emb)).mean())


def drift(base_emb: Tensor, adapted_emb: Tensor) -> float:
    """(1 / N) sum_i (1 - cos(base_i, adapted_i)), both [N, D], in [0, 2].

    Row i of both shows the same class prompt (without the trigger) from the same seed, made by the base and by the
    adapted model: how far images that do not ask for the subject have moved. 0: the adapter changes nothing there.
    """
    return float((1 - paired_cosines(base_emb, adapted_emb)).mean())


def memorisation(gen: Tensor, ref: Tensor) -> tuple[Tensor, Tensor]:
    """max_j cos(gen_i, ref_j) and its j: how close each output is to its nearest training photo.

    gen [N, D], ref [M, D] -> cosines [N] float64, indices [N] int64.
    """
    nearest = cosines(gen, ref).max(dim=1)
    return nearest.values, nearest.indices


def copies(ref: Tensor) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of photos that are one picture saved twice: cos(ref_i, ref_j) > COPY. ref [M, D]."""
    above = cosines(ref, ref) > COPY
    return [(i, j) for i, j in above.nonzero().tolist() if i < j]


def memorisation_threshold(ref: Tensor) -> float | None:
    """max_{i != j} cos(ref_i, ref_j) over the photos, ref [M, D], M >= 2, without those pairs that are copies of each
    other: nothing could be closer than they are. None if all are.

    An output closer to a photo than any two photos are to each other may be a copy of it: worth a look. With few
    photos it is a low bar, since it also rises with how well identity is met: of the ideal pictures of sprite's
    samples, which are no copies, about a third exceed it under sprite's DINO.
    """
    pairs = _other_pairs(ref)
    pairs = pairs[pairs <= COPY]
    return float(pairs.max()) if len(pairs) else None


def _other_pairs(emb: Tensor) -> Tensor:
    """cos(e_i, e_j) for all i != j: [N, D] -> [N (N - 1)] float64."""
    count = len(emb)
    if count < 2:
        raise ValueError(f"pairs of different images need at least 2 images, not {count}")
    return cosines(emb, emb)[~torch.eye(count, dtype=torch.bool)]


def _unit(emb: Tensor) -> Tensor:
    if emb.ndim != 2 or 0 in emb.shape:
        raise ValueError(f"embeddings must be [N, D] with N and D at least 1, not {tuple(emb.shape)}")
    emb = emb.detach().cpu().double()
    if not torch.isfinite(emb).all():
        raise ValueError("an embedding has numbers that are not finite")
    # Scaled by the largest number first: the squares of tiny or huge ones would leave float64's range.
    largest = emb.abs().amax(dim=1, keepdim=True)
    if (largest == 0).any():
        raise ValueError("an embedding is all zeros and has no direction")
    emb = emb / largest
    return emb / emb.norm(dim=1, keepdim=True)
