"""What two grids must share for their cells to stand in one comparison; both as `grid` of results.json tells them.

What an older results.json does not tell is not compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Grid = Mapping[str, Any]


def other_work(first: Grid, second: Grid) -> list[str]:
    """What no cell of one can be compared with a cell of the other for, in words."""
    found = []
    if first["protocol"] != second["protocol"]:
        found.append("other steps, sampling, base, encoders or [train]")
    found += _by_subject(first, second, "photos", "other photos, or another class noun,")
    return found + _by_subject(first, second, "beside", "other captions, masks or ideal pictures")


def other_pictures(first: Grid, second: Grid) -> list[str]:
    """What the pictures of both, or what is said of them, cannot be put together for."""
    found = []
    told = [{**grid.get("config", {}), **grid} for grid in (first, second)]
    for name in ("checkpoints", "image_seeds", "drift_pictures", "only_last_in_full", "margin_fraction"):
        values = [grid[name] for grid in told if name in grid]
        if len(values) == 2 and values[0] != values[1]:
            found.append(f"{name} {values[1]}, not {values[0]}")
    return found + _by_subject(first, second, "prompts", "other prompts")


def _by_subject(first: Grid, second: Grid, name: str, what: str) -> list[str]:
    """Of the subjects that both tell `name` of, those it differs for."""
    one, other = (grid.get(name, {}) for grid in (first, second))
    differing = [subject for subject in one if subject in other and one[subject] != other[subject]]
    return [f"{what} of {', '.join(differing)}"] if differing else []
