"""DINO at matched CLIP-T, and the hypervolume: one run's path of (CLIP-T, DINO) against another's.

Training longer, or hotter, buys likeness (DINO) with obedience to the prompt (CLIP-T), so two runs are compared where
both keep as much of it. A path is a run's states in the order of training: the base, which is every run's state
before its first step, then its checkpoints, all scored on the same prompts and image seeds, or moved as if they were.
"""

from __future__ import annotations

from collections.abc import Sequence

Point = tuple[float, float]  # (CLIP-T, DINO)


def matched_difference(ours: Sequence[Point], theirs: Sequence[Point]) -> float | None:
    """DINO(ours) - DINO(theirs) at the same CLIP-T, None where neither run has the CLIP-T that the other ends with.

    One run stands as it ended, and the other is taken back along its path to the last place with that CLIP-T, straight
    lines between its states; nothing is extrapolated. Where both can be taken back, the end with more CLIP-T is the
    level. So two runs that lose CLIP-T meet where the gentler one ends, and so do two that gain it (a base may know
    less of a subject's class than its photos show). The rule is the same with the runs exchanged and favours neither.
    """
    for level in sorted((ours[-1][0], theirs[-1][0]), reverse=True):
        here, there = dino_at(ours, level), dino_at(theirs, level)
        if here is not None and there is not None:
            return here - there
    return None


def dino_at(path: Sequence[Point], level: float) -> float | None:
    """DINO where the path last has this CLIP-T, linear between states; None if it never has."""
    clip_t, dino = path[-1]
    if clip_t == level:
        return dino
    for (x0, y0), (x1, y1) in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
        if min(x0, x1) <= level <= max(x0, x1):
            return y1 if x0 == x1 else y0 + (y1 - y0) * (level - x0) / (x1 - x0)
    return None


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats in both CLIP-T and DINO, by falling CLIP-T."""
    best: list[Point] = []
    for point in sorted(set(points), reverse=True):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """The area that the points dominate above the reference point; points not above it in both add nothing.

    reference: (0, the base's DINO): text that is not followed at all, and a subject that is not learned at all.
    """
    area, below = 0.0, reference[1]
    for clip_t, dino in front([p for p in points if p[0] > reference[0] and p[1] > reference[1]]):
        area += (clip_t - reference[0]) * (dino - below)
        below = dino
    return area
