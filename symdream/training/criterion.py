"""Which of several states of a run is the best: one number for likeness and obedience together, and when to stop.

Likeness alone would choose the adapter that draws its photos again whatever is asked, obedience alone the base. So
each is measured on a scale whose ends the run itself has:

    I = (DINO - DINO_base) / (DINO_photos - DINO_base)          0: as the base,     1: as alike as the photos are
    O = (CLIP-T - CLIP-T_photos) / (CLIP-T_base - CLIP-T_photos)  0: as the photos, whatever is asked,  1: as the base
    score = 2 I O / (I + O)

I and O are cut to [0, 1]: beyond the photos lies copying, and beyond the base nothing that was asked for. The
harmonic mean falls to 0 where either does, and rewards most what lacks most. Why not the highest DINO above some
CLIP-T: with the few pictures that a run can afford to draw, whether one of two like states passes a line is chance,
and no one line fits all: the true subject, composed as asked, has 60 % of the base's CLIP-T under sprite's CLIP, and
about 95 % on photographs, where the texts of base and photos lie much closer. This is our choice, from no paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# Where base and photos are closer than this, their difference is mostly chance, and would be a scale of chance.
SMALLEST_RANGE = 0.02


@dataclass(frozen=True)
class Scores:
    """DINO against the photos, and CLIP-T against the prompts."""

    dino: float
    clip_t: float


@dataclass(frozen=True)
class Scale:
    """Both ends of both scales. photos: DINO among themselves, CLIP-T as if they answered the prompts."""

    base: Scores
    photos: Scores

    def likeness(self, scores: Scores) -> float:
        """I, from 0 to 1."""
        return share(scores.dino, self.base.dino, self.photos.dino)

    def obedience(self, scores: Scores) -> float:
        """O, from 0 to 1."""
        return share(scores.clip_t, self.photos.clip_t, self.base.clip_t)

    def score(self, scores: Scores) -> float:
        """2 I O / (I + O), from 0 to 1; 0 where both are 0."""
        i, o = self.likeness(scores), self.obedience(scores)
        return 2 * i * o / (i + o) if i + o else 0.0


def share(value: float, low: float, high: float) -> float:
    """Where `value` lies between `low` (0) and `high` (1), cut to that."""
    return min(1.0, max(0.0, (value - low) / max(high - low, SMALLEST_RANGE)))


def best(scores: Sequence[float]) -> int:
    """The place of the highest score, the first of equal ones."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def exhausted(scores: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` scores all failed to beat the best before them (patience 0: never)."""
    return bool(patience and scores) and len(scores) - 1 - best(scores) >= patience
