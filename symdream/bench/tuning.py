"""Tuning: each arm's lr (and alpha, if asked) found on subjects that the comparison leaves out, in equal trials.

Every arm begins with the same number of rates, half a decade apart, around its method's default. As long as the best
rate of some arm lies at the edge of its range, every arm gets one trial more, next to its own better edge, up to a
limit: so all arms have as many trials, whoever needed them.

    objective(trial) = mean over tuning subjects of DINO(adapted) - DINO(base), on the subjects' selection prompts,
    which no report uses; but a trial whose mean CLIP-T is below floor ranks after all that keep it, by the shortfall:
    objective = -1 - (floor - CLIP-T). floor = 0.8 x the CLIP-T of the ideal pictures, or of the base where there are
    none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from symdream.bench.arms import Arm
from symdream.bench.cells import Cell, Settings
from symdream.bench.grid import Grid
from symdream.bench.subjects import BenchSubject
from symdream.tuners import METHODS

HALF_DECADE = math.sqrt(10)
SEED = 90_000  # of the runs; far from those of the comparison
# What of a grid decides which trials are made and which one is chosen, beside its protocol and its arms.
DECIDING = ("tuning_trials", "tuning_limit", "tuning_alphas", "clip_t_floor", "image_seeds", "prompts_per_subject")


@dataclass(frozen=True)
class Trial:
    """One setting of one arm. `place` counts half decades from the method's default rate; alpha is alpha / rank."""

    arm: str
    place: int
    alpha: float

    def settings(self, arm: Arm, *, embedded: bool) -> Settings:
        default = defaults(arm, embedded=embedded)
        factor = HALF_DECADE**self.place
        lr, text_lr = (float(f"{rate * factor:.3g}") for rate in (default.lr, default.text_encoder_lr))
        return Settings(lr, text_lr, self.alpha * arm.rank)


def defaults(arm: Arm, *, embedded: bool) -> Settings:
    """The table's rates, alpha = rank."""
    method = METHODS[arm.method]
    lr, text_lr = (method.lr, method.text_encoder_lr) if embedded else (method.real_lr, method.real_text_encoder_lr)
    return Settings(lr, text_lr, float(arm.rank))


def first_trials(arm: str, grid: Grid) -> list[Trial]:
    half = (grid.tuning_trials - 1) // 2
    places = range(-half, grid.tuning_trials - half)
    return [Trial(arm, place, alpha) for place in places for alpha in grid.tuning_alphas]


def next_trials(trials: Mapping[str, Mapping[Trial, float]], grid: Grid) -> list[Trial]:
    """One more rate for every arm, or none: trials[arm] are its objectives so far."""
    if not any(at_edge(found) for found in trials.values()):
        return []
    if any(len({trial.place for trial in found}) >= grid.tuning_limit for found in trials.values()):
        return []
    return [Trial(arm, _outside(found), alpha) for arm, found in trials.items() for alpha in grid.tuning_alphas]


def best_of(found: Mapping[Trial, float]) -> Trial:
    """The trial with the largest objective; of equals the smallest rate."""
    return max(sorted(found, key=lambda trial: (trial.place, trial.alpha)), key=lambda trial: found[trial])


def at_edge(found: Mapping[Trial, float]) -> bool:
    """Whether the best rate is the smallest or the largest that was tried."""
    places = {trial.place for trial in found}
    return best_of(found).place in (min(places), max(places))


def _outside(found: Mapping[Trial, float]) -> int:
    """The untried rate next to the better of the two edges."""
    places = [trial.place for trial in found]
    low, high = min(places), max(places)
    value = {edge: max(v for trial, v in found.items() if trial.place == edge) for edge in (low, high)}
    return low - 1 if value[low] > value[high] else high + 1


def objective(scores: Sequence[Mapping[str, float]], base: Sequence[Mapping[str, float]], floor: float) -> float:
    """See above; scores and base hold dino and clip_t, one of each a tuning subject."""
    gain = fmean(s["dino"] for s in scores) - fmean(b["dino"] for b in base)
    clip_t = fmean(s["clip_t"] for s in scores)
    return gain if clip_t >= floor else -1 - (floor - clip_t)


def floor_of(grid: Grid, tuning: Sequence[Mapping[str, Any]], reported: Sequence[Mapping[str, Any]]) -> float:
    """The least CLIP-T of a trial, from the tuning subjects' references (on selection and on held-out prompts)."""
    ideal = [r["ceiling"]["clip_t"] for r in reported if r.get("ceiling")]
    known = ideal if len(ideal) == len(reported) and ideal else [r["base"]["clip_t"] for r in tuning]
    return grid.clip_t_floor * fmean(known)


def changed(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of this grid would tune otherwise than `before` did; both as `grid` of results.json. An older one does not
    tell its selection prompts."""
    found = [name for name in DECIDING if before["config"].get(name, now["config"][name]) != now["config"][name]]
    if before["tuning_subjects"] != now["tuning_subjects"]:
        return [*found, "tuning_subjects"]
    return found + (["the selection prompts"] if before.get("selection", now["selection"]) != now["selection"] else [])


def trial_cells(
    trial: Trial, arm: Arm, grid: Grid, names: Sequence[str], subjects: Mapping[str, BenchSubject], protocol: str,
    *, embedded: bool,
) -> list[Cell]:  # fmt: skip
    """The runs of a trial, one a tuning subject: scored at the last step, on the selection prompts."""
    found = trial.settings(arm, embedded=embedded)
    return [
        Cell(
            id=f"tune-{arm.id}-lr{found.lr:g}-alpha{found.alpha:g}-{name}",
            arm=arm.id,
            method=arm.method,
            rank=arm.rank,
            subject=name,
            seed=SEED,
            settings=found,
            prompts=tuple(subjects[name].selection),
            image_seeds=tuple(grid.image_seeds),
            points=(grid.steps,),
            in_full=(True,),
            drift_pictures=0,
            protocol=protocol,
            spectrum=False,
        )
        for name in names
    ]
