"""How much several subjects of one run bleed into each other.

Pictures for subject i's prompts should look like i's photos, and like j's photos only as much as i's own photos do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from symdream.metrics.scores import real_vs_real, subject_fidelity


def bleeding(outputs: Sequence[Tensor], photos: Sequence[Tensor]) -> dict[str, Any]:
    """DINO between every subject's pictures and every subject's photos.

    outputs[i] (N_i, D): pictures drawn for subject i; photos[j] (M_j, D); S subjects. Returns S x S lists:
      similarity[i][j]   S_ij = mean cosine of outputs_i and photos_j
      photos[i][j]       P_ij = mean cosine of photos_i and photos_j (without self-pairs; null for one photo)
      bleeding[i][j]     S_ij - P_ij for i != j: above 0, i's pictures are nearer to j than i's photos are (null on
                         the diagonal)
    and margin[i] = S_ii - max_j S_ij: below 0, i's pictures look more like another subject than like i.

    Our choice, not taken from a paper. Raises: ValueError for fewer than two subjects, or unequal numbers.
    """
    if len(outputs) != len(photos) or len(photos) < 2:
        raise ValueError(f"{len(outputs)} sets of pictures, {len(photos)} of photos: need two subjects or more of each")
    everyone = range(len(photos))
    similarity = [[subject_fidelity(outputs[i], photos[j]) for j in everyone] for i in everyone]
    among = [
        [_alone(photos[i]) if i == j else subject_fidelity(photos[i], photos[j]) for j in everyone] for i in everyone
    ]
    return {
        "similarity": similarity,
        "photos": among,
        "bleeding": [[similarity[i][j] - among[i][j] if i != j else None for j in everyone] for i in everyone],
        "margin": [similarity[i][i] - max(similarity[i][j] for j in everyone if j != i) for i in everyone],
    }


def _alone(photos: Tensor) -> float | None:
    return real_vs_real(photos) if len(photos) > 1 else None
