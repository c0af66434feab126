"""What a comparison's results say: `analysis` and `paired` of results.json, from its cells and its pictures' scores.

A grid that is not finished is analysed as far as it goes and marked as partial.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from symdream.bench import statistics
from symdream.bench.comparisons import HYPERVOLUME, PRIMARY, SPAN_OF, path_of, plan_comparisons, volume_of
from symdream.bench.endpoint import Point
from symdream.bench.paired import Cells, paired_differences, plain
from symdream.bench.variance import components, cube

TABLE = ("dino", "clip_i", "clip_t", "dino_foreground", "dino_matched", "diversity", "drift", "memorised")


def analyse(content: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"analysis": …, "paired": […]} of results.json (`content`) and the lines of scores.csv (`rows`)."""
    cells: Cells = {(c["arm"], c["subject"], c["seed"]): c for c in content["cells"] if c["status"] == "finished"}
    comparisons = plan_comparisons(content["grid"])
    margins = margins_of(content)
    paired = paired_differences(content, comparisons, cells, margins)
    blocks, left_out = complete_blocks(content, cells)
    analysis = {
        "partial": not content["complete"],
        "states": dict(Counter(cell["status"] for cell in content["cells"])),
        "margins": margins,
        "primary": primary_of(paired),
        "blocks": {"count": len(blocks), "subjects": len({name for name, _ in blocks}), "without": left_out},
        "arms": {arm["id"]: arm_row(arm["id"], blocks, cells, content) for arm in content["grid"]["arms"]},
        "references": reference_rows(content, blocks),
        "variance": variance_of(content, comparisons, rows),
    }
    return {"analysis": plain(analysis), "paired": paired}


def margins_of(content: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The non-inferiority margin of each score: a part of the span from the base to the ideal pictures, or, where a
    data set has no ideal pictures, to the photos among themselves. No entry where the span is not positive.
    """
    found = {}
    for score in sorted(set(SPAN_OF.values())):
        for top in ("ceiling", "real"):
            pairs = [
                (reference["base"].get(score), (reference.get(top) or {}).get(score))
                for reference in content["references"].values()
            ]
            known = [pair for pair in pairs if None not in pair]
            if not known:
                continue
            base, best = (fmean(side) for side in zip(*known, strict=True))
            if best > base:
                fraction = content["grid"]["margin_fraction"]
                found[score] = {"margin": fraction * (best - base), "fraction": fraction, "span": best - base,
                                "base": base, "top": best, "top_is": top, "subjects": len(known)}  # fmt: skip
            break
    return found


def primary_of(paired: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The primary family in short: how many subjects (of the comparison with most), and the least p they could give."""
    family = [entry for entry in paired if entry["family"] == PRIMARY]
    if not family:
        return {"comparisons": 0, "subjects": 0, "smallest_p": None, "smallest_p_holm": None}
    n = max(entry["n"] for entry in family)
    least = statistics.smallest_p(n) if n else 1.0
    return {"comparisons": len(family), "subjects": n, "smallest_p": least,
            "smallest_p_holm": min(1.0, len(family) * least)}  # fmt: skip


def complete_blocks(content: Mapping[str, Any], cells: Cells) -> tuple[list[tuple[str, int]], list[str]]:
    """(subject, training seed) for which every arm is finished, so that the table's means are of the same things.

    Arms without one finished cell are left out of the condition, and returned.
    """
    present = {arm for arm, _, _ in cells}
    left_out = [arm["id"] for arm in content["grid"]["arms"] if arm["id"] not in present]
    blocks = sorted({(name, seed) for _, name, seed in cells})
    return [b for b in blocks if all((arm, *b) in cells for arm in present)], left_out


def arm_row(
    arm: str, blocks: Sequence[tuple[str, int]], cells: Cells, content: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The means of an arm over `blocks`, each subject counting once, with t intervals over subjects; None without."""
    mine = [cells[arm, *block] for block in blocks if (arm, *block) in cells]
    if not mine:
        return None
    references = content["references"]
    scores = {score: _over_subjects(mine, lambda c, s=score: c["points"][-1]["scores"].get(s)) for score in TABLE}
    scores[HYPERVOLUME] = _over_subjects(mine, lambda c: volume_of(c, references.get(c["subject"])))
    seconds = [cell["seconds_per_step"] for cell in mine if cell["seconds_per_step"] is not None]
    states: dict[int, list[Point]] = {}  # as the endpoint takes them
    for cell in mine:
        for point, state in zip(cell["points"], path_of(cell, None), strict=True):
            states.setdefault(point["step"], []).append(state)
    return {
        "scores": scores,
        "path": [
            {"step": step, "clip_t": fmean(x for x, _ in found), "dino": fmean(y for _, y in found)}
            for step in content["grid"]["checkpoints"]
            if len(found := states.get(step, [])) == len(mine)
        ],
        "parameters": mine[0]["parameters"],
        "seconds_per_step": fmean(seconds) if seconds else None,
    }


def reference_rows(content: Mapping[str, Any], blocks: Sequence[tuple[str, int]]) -> dict[str, Any]:
    """The means of base, ideal pictures and photos over the subjects of `blocks` (all where there are none)."""
    names = {name for name, _ in blocks} or set(content["references"])
    rows = {}
    for which in ("base", "ceiling", "real"):
        known = [r[which] for name, r in content["references"].items() if name in names and r.get(which)]
        if known:
            scores = {score: [s[score] for s in known if s.get(score) is not None] for score in TABLE}
            rows[which] = {score: fmean(values) if values else None for score, values in scores.items()}
    return rows


def variance_of(
    content: Mapping[str, Any], comparisons: Sequence[Any], rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Variance components of DINO at the end: of each arm, and of the primary comparisons' picture by picture."""
    last = content["grid"]["checkpoints"][-1]
    arms: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row["step"] == last and row["cell"]:
            arms.setdefault(row["arm"], []).append(row)
    sets = [(arm["id"], None, arms.get(arm["id"], [])) for arm in content["grid"]["arms"]]
    for comparison in comparisons:
        if comparison.family == PRIMARY:
            ours, theirs = (arms.get(arm, []) for arm in (comparison.ours, comparison.theirs))
            sets.append((comparison.ours, comparison.theirs, _differences(ours, theirs)))
    found = []
    for arm, against, values in sets:
        whole = cube(values, "dino")
        if whole is not None:
            subjects, table = whole
            found.append({"arm": arm, "against": against, "subjects": len(subjects), "shape": list(table.shape),
                          "components": components(table)})  # fmt: skip
    return found


def _differences(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Lines with the difference of DINO, picture by picture of the same subject, seeds and prompt."""
    key = ("subject", "training_seed", "prompt", "image_seed")
    other = {tuple(row[k] for k in key): row["dino"] for row in theirs}
    return [
        {**{k: row[k] for k in key}, "dino": row["dino"] - other[place]}
        for row in ours
        if (place := tuple(row[k] for k in key)) in other
    ]


def _over_subjects(cells: Sequence[Mapping[str, Any]], value: Any) -> dict[str, Any] | None:
    """Mean over subjects of their mean over seeds, with its t interval."""
    subjects: dict[str, list[float]] = {}
    for cell in cells:
        if (found := value(cell)) is not None:
            subjects.setdefault(cell["subject"], []).append(found)
    if not subjects:
        return None
    means = [fmean(values) for values in subjects.values()]
    low, high = map(float, statistics.t_interval(means)) if len(means) > 1 else (None, None)
    return {"mean": fmean(means), "low": low, "high": high, "n": len(means)}
