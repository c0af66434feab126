"""The paired differences of a comparison, and what they say: `paired` of results.json.

The unit is the subject: its difference is the mean over its training seeds of ours - theirs, both runs with the same
subject, training seed, prompts and image seeds. Runs of one subject are no independent evidence about other subjects,
so they are never counted as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

from symdream.bench import statistics
from symdream.bench.comparisons import (
    ENDPOINTS,
    EXPLORATORY,
    MATCHED,
    MATCHED_ALONE,
    PRIMARY,
    SPAN_OF,
    Comparison,
    difference,
)

PAPER_DIFFERENCE = 0.008  # SingLoRA r16 .151, LoRA r8 .143 (arXiv:2507.05566, table 3)
SIDES = ("above_zero", "above_margin", "below_margin")
NOT_FINISHED, NO_COMMON, NO_SCORE = "not finished", "no common clip_t", "no score"
Cells = Mapping[tuple[str, str, int], Mapping[str, Any]]  # the finished ones, by arm, subject and training seed


def paired_differences(
    content: Mapping[str, Any],
    comparisons: Sequence[Comparison],
    cells: Cells,
    margins: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One entry for each comparison and endpoint; the primary family first, its p-values Holm-corrected."""
    found = []
    for endpoint in ENDPOINTS:
        margin = margins.get(SPAN_OF.get(endpoint, ""), {}).get("margin")
        for comparison in comparisons:
            primary = comparison.family == PRIMARY and endpoint == MATCHED
            entry = {"family": PRIMARY if primary else EXPLORATORY, "endpoint": endpoint,
                     "arm": comparison.ours, "against": comparison.theirs}  # fmt: skip
            subjects, counts = subject_differences(content, comparison, endpoint, cells)
            found.append(entry | counts | describe(list(subjects.values()), margin) | {"subjects": subjects})
    found.sort(key=lambda entry: entry["family"] != PRIMARY)
    correct([entry for entry in found if entry["family"] == PRIMARY])
    for entry in found:
        entry["verdict"] = judge(entry)
        if entry["endpoint"] == MATCHED:
            entry["bootstrap"] = statistics.bootstrap_interval(list(entry["subjects"].values()))
    return [plain(entry) for entry in found]


def subject_differences(
    content: Mapping[str, Any], comparison: Comparison, endpoint: str, cells: Cells
) -> tuple[dict[str, float], dict[str, Any]]:
    """The mean difference of each subject, and how many pairs were used and dropped, and why.

    `dropped_ahead` counts, of those without a common CLIP-T, whose last state was ahead in both scores: were all of
    them ours or theirs, dropping them would have hidden something.
    """
    dropped = dict.fromkeys((NOT_FINISHED, NO_COMMON, NO_SCORE), 0)
    ahead = {"ours": 0, "theirs": 0}
    subjects, pairs = {}, 0
    for name in content["grid"]["subjects"]:
        values = []
        for seed in content["grid"]["training_seeds"]:
            ours, theirs = (cells.get((arm, name, seed)) for arm in (comparison.ours, comparison.theirs))
            if ours is None or theirs is None:
                dropped[NOT_FINISHED] += 1
                continue
            value = difference(endpoint, ours, theirs, content["references"].get(name))
            if value is None:
                dropped[NO_COMMON if endpoint in (MATCHED, MATCHED_ALONE) else NO_SCORE] += 1
                if (which := ahead_in_both(ours, theirs)) and endpoint in (MATCHED, MATCHED_ALONE):
                    ahead[which] += 1
            else:
                values.append(value)
        pairs += len(values)
        if values:
            subjects[name] = fmean(values)
    return subjects, {"pairs": pairs, "dropped": dropped, "dropped_ahead": ahead}


def ahead_in_both(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """Whose last state has both more CLIP-T and more DINO: "ours", "theirs" or None."""
    gaps = [difference(score, ours, theirs, None) for score in ("clip_t", "dino")]
    return "ours" if min(gaps) > 0 else "theirs" if max(gaps) < 0 else None


def describe(values: Sequence[float], margin: float | None) -> dict[str, Any]:
    """Mean, spread, 95 % t interval and tests of the subjects' differences; None where there are too few."""
    n = len(values)
    low, high = map(float, statistics.t_interval(values)) if n > 1 else (None, None)
    sd = stdev(values) if n > 1 else None
    shifted = [value + (margin or 0.0) for value in values]
    return {
        "n": n,
        "mean": fmean(values) if n else None,
        "sd": sd,
        "low": low,
        "high": high,
        "p": statistics.sign_flip_test(values) if n else None,
        "p_holm": None,
        "smallest_p": statistics.smallest_p(n) if n else None,
        "p_t": statistics.t_test(values),
        "margin": margin,
        "p_one_sided": {
            "above_zero": statistics.sign_flip_test(values, "above"),
            "above_margin": statistics.sign_flip_test(shifted, "above"),
            "below_margin": statistics.sign_flip_test(shifted, "below"),
        }
        if n and margin is not None
        else None,
        "subjects_needed": {
            "margin": statistics.subjects_needed(sd, margin),
            "paper": statistics.subjects_needed(sd, PAPER_DIFFERENCE),
        }
        if sd and margin
        else None,
    }


def correct(family: Sequence[dict[str, Any]]) -> None:
    """Holm's correction within a family, in place. A comparison without data counts, with p = 1."""
    for entry, p in zip(family, statistics.holm([1.0 if e["p"] is None else e["p"] for e in family]), strict=True):
        entry["p_holm"] = p
    for side in SIDES:
        raw = [e["p_one_sided"][side] if e["p_one_sided"] else 1.0 for e in family]
        for entry, p in zip(family, statistics.holm(raw), strict=True):
            if entry["p_one_sided"]:
                entry["p_one_sided"] = entry["p_one_sided"] | {side: p}


def judge(entry: Mapping[str, Any]) -> str | None:
    """better, non-inferior, inferior or undecided; None where the endpoint has no margin."""
    if entry["margin"] is None:
        return None
    if entry["low"] is None:
        return statistics.UNDECIDED
    p = entry["p_one_sided"]
    return statistics.verdict(entry["low"], entry["high"], entry["margin"], *(p[side] for side in SIDES))


def plain(value: Any) -> Any:
    """As JSON holds it: six digits, no NaN, no tuples."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return value
