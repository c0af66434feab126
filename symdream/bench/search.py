"""The search for each arm's settings: trials in rounds, by the rules of symdream.bench.tuning."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from symdream.bench import tuning
from symdream.bench.arms import Arm
from symdream.bench.cells import Cell, Settings
from symdream.bench.scope import Scope
from symdream.bench.settings import Chosen
from symdream.bench.tuning import Trial
from symdream.ui import say

Work = Callable[[Sequence[Cell]], Mapping[str, Mapping[str, Any]]]
Entry = dict[str, Any]  # one run of a trial, as `tuning` of results.json holds it


def search(
    scope: Scope, references: Mapping[str, Mapping[str, Any]], work: Work, keep: Callable[[list[Entry]], Any]
) -> Chosen:
    """Tune every arm.

    references: NAME and NAME-tuning of each subject that is tuned on. work: trains and scores cells, and gives {cell,
    rows} of each by its id. keep: is given all trials so far after each round.
    """
    entries: list[Entry] = []
    objectives: dict[str, dict[Trial, float]] = {arm.id: {} for arm in scope.arms}
    trials = [trial for arm in scope.arms for trial in tuning.first_trials(arm.id, scope.grid)]
    while trials:
        entries += _try(trials, scope, references, work, objectives)
        keep(entries)
        trials = tuning.next_trials(objectives, scope.grid)
        if trials:
            edges = [arm for arm, found in objectives.items() if tuning.at_edge(found)]
            say(f"  the best rate lies at the edge of the range of {', '.join(edges)}: one more trial for every arm")
    settings = {}
    for arm in scope.arms:
        found = objectives[arm.id]
        settings[arm.id] = chosen = tuning.best_of(found).settings(arm, embedded=scope.embedded)
        for entry in entries:
            if entry["arm"] == arm.id:
                entry["chosen"] = entry["lr"] == chosen.lr and entry["alpha"] == chosen.alpha
        _tell(arm, chosen, found, embedded=scope.embedded)
    return Chosen(settings, entries)


def _try(
    trials: Sequence[Trial],
    scope: Scope,
    references: Mapping[str, Mapping[str, Any]],
    work: Work,
    objectives: dict[str, dict[Trial, float]],
) -> list[Entry]:
    """Run all of a round at once, add the objective of each to `objectives`; the entries of their runs."""
    arms = {arm.id: arm for arm in scope.arms}
    cells = {trial: scope.trial_cells(trial, arms[trial.arm]) for trial in trials}
    done = work([cell for of_trial in cells.values() for cell in of_trial])
    selection = [references[f"{name}-tuning"]["scores"] for name in scope.tuned_on]
    floor = tuning.floor_of(scope.grid, selection, [references[name]["scores"] for name in scope.tuned_on])
    entries = []
    for trial, of_trial in cells.items():
        results = [done[cell.id]["cell"] for cell in of_trial]
        scores = [result["points"][-1]["scores"] if result["points"] else None for result in results]
        whole = None not in scores
        value = tuning.objective(scores, [each["base"] for each in selection], floor) if whole else float("-inf")
        objectives[trial.arm][trial] = value
        entries += [
            {
                "arm": cell.arm, "lr": cell.settings.lr, "text_encoder_lr": cell.settings.text_encoder_lr,
                "alpha": cell.settings.alpha, "subject": cell.subject, "seed": cell.seed, "scores": score,
                "error": result["error"], "objective": value if whole else None, "clip_t_floor": floor, "chosen": False,
            }
            for cell, result, score in zip(of_trial, results, scores, strict=True)
        ]  # fmt: skip
    return entries


def _tell(arm: Arm, chosen: Settings, found: Mapping[Trial, float], *, embedded: bool) -> None:
    edge = " (at the edge of the range: the limit of trials is reached)" if tuning.at_edge(found) else ""
    curve = ", ".join(
        f"{trial.settings(arm, embedded=embedded).lr:g}: {value:+.3f}"
        for trial, value in sorted(found.items(), key=lambda item: (item[0].alpha, item[0].place))
    )
    say(f"  {arm.label}: lr {chosen.lr:g}, alpha {chosen.alpha:g}{edge}   [{curve}]")
