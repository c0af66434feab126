"""Which arms are compared by what: the family that was fixed beforehand, and everything else.

    primary       SingLoRA against lora, lora+, dora and symlora at equal rank, that is with half of LoRA's parameters;
                  DINO at matched CLIP-T; Holm-corrected, whether or not all four are there yet
    exploratory   SingLoRA at equal parameters, every other pair of arms, every other endpoint; not corrected

All of this was decided before any grid was run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from symdream.bench.endpoint import Point, hypervolume, matched_difference

EQUAL_RANK, EQUAL_PARAMETERS = "equal rank", "equal parameters"  # the roles of arms
PRIMARY, EXPLORATORY = "primary", "exploratory"
MATCHED = "dino at matched clip_t"
MATCHED_ALONE = "dino at matched clip_t, without the base's point"
HYPERVOLUME = "hypervolume"
AT_THE_END = ("dino", "clip_i", "clip_t", "dino_foreground", "dino_matched", "diversity", "drift")
ENDPOINTS = (MATCHED, MATCHED_ALONE, HYPERVOLUME, *AT_THE_END)
# The score whose span between base and ceiling gives an endpoint's margin.
SPAN_OF = {MATCHED: "dino", MATCHED_ALONE: "dino", "dino": "dino", "clip_i": "clip_i",
           "dino_foreground": "dino_foreground"}  # fmt: skip
ORDER = ("singlora", "symlora", "dora", "lora+", "lora")  # the first of two is "ours": differences are ours - theirs


@dataclass(frozen=True)
class Comparison:
    """Arm `ours` against arm `theirs`, by id."""

    ours: str
    theirs: str
    family: str


def plan_comparisons(grid: Mapping[str, Any]) -> list[Comparison]:
    """All pairs of the grid's arms, the primary family first. `grid` as in results.json."""
    primary = primary_pairs(grid)
    arms = sorted(grid["arms"], key=lambda arm: ORDER.index(arm["method"]))
    others = [(a["id"], b["id"]) for a, b in combinations(arms, 2) if (a["id"], b["id"]) not in primary]
    return [Comparison(*pair, PRIMARY) for pair in primary] + [Comparison(*pair, EXPLORATORY) for pair in others]


def primary_pairs(grid: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(ours, theirs) of the primary family, by the first arm of each method.

    At equal rank where the grid has such an arm of ours, else (match = "parameters") at equal parameters.
    """
    wanted = grid["primary"]
    ours = _first(grid["arms"], wanted["method"], None)
    if ours is None:
        return []
    theirs = [_first(grid["arms"], method, ours["role"]) for method in wanted["against"]]
    return [(ours["id"], arm["id"]) for arm in theirs if arm is not None]


def _first(arms: Sequence[Mapping[str, Any]], method: str, role: str | None) -> Mapping[str, Any] | None:
    of_method = [arm for arm in arms if arm["method"] == method]
    return next((arm for arm in of_method if arm["role"] == role), of_method[0] if of_method else None)


def path_of(cell: Mapping[str, Any], reference: Mapping[str, Any] | None) -> list[Point]:
    """The run's states as (CLIP-T, DINO): the base where its scores are known, then the checkpoints.

    Where checkpoints before the last were drawn from the first image seed alone, they are moved by what all seeds and
    the first one differ in at the last: else that difference would count for the run that is taken back.
    """
    states = [_point(point["scores"]) for point in cell["points"]]
    if first := cell["points"][-1].get("first_seed"):
        x, y = (whole - alone for whole, alone in zip(states[-1], _point(first), strict=True))
        states = [(clip_t + x, dino + y) for clip_t, dino in states[:-1]] + states[-1:]
    return ([_point(reference["base"])] if reference else []) + states


def _point(scores: Mapping[str, Any]) -> Point:
    return scores["clip_t"], scores["dino"]


def difference(
    endpoint: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], reference: Mapping[str, Any] | None
) -> float | None:
    """Ours - theirs of two finished cells of one subject and training seed; None where the endpoint is not defined."""
    if endpoint == MATCHED:
        return matched_difference(path_of(ours, reference), path_of(theirs, reference))
    if endpoint == MATCHED_ALONE:
        return matched_difference(path_of(ours, None), path_of(theirs, None))
    if endpoint == HYPERVOLUME:
        volumes = [volume_of(cell, reference) for cell in (ours, theirs)]
        return None if None in volumes else volumes[0] - volumes[1]
    values = [cell["points"][-1]["scores"].get(endpoint) for cell in (ours, theirs)]
    return None if None in values else values[0] - values[1]


def volume_of(cell: Mapping[str, Any], reference: Mapping[str, Any] | None) -> float | None:
    """The hypervolume of a run's checkpoints above (0, the base's DINO); None where the base is not known."""
    return hypervolume(path_of(cell, None), (0.0, reference["base"]["dino"])) if reference else None
