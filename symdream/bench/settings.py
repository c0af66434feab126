"""What the arms of a comparison are trained with; and how those of an earlier one are taken for this one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from symdream.bench.cells import Settings
from symdream.bench.grid import Grid, check
from symdream.bench.results import read_results
from symdream.errors import RequestError


@dataclass(frozen=True)
class Chosen:
    """Settings by arm, the trials they come from, and what those were trained under.

    No settings: they are not chosen yet; no trials: the table of methods chose; under None: tuned here, or not at all.
    """

    settings: dict[str, Settings] = field(default_factory=dict)
    trials: list[dict[str, Any]] = field(default_factory=list)
    under: dict[str, Any] | None = None


def read_settings(path: Path) -> Chosen:
    """What results.json (or the one in this folder) was tuned to.

    Raises: RequestError if there is no such file, it is of another format, or nothing was tuned in it.
    """
    folder = path if path.is_dir() else path.parent
    content = read_results(folder)
    if content is None:
        raise RequestError(
            f"{path} is no comparison: there is no results.json.", fix="name the folder of a comparison that was tuned"
        )
    if not content.get("settings") or not content.get("tuning"):
        raise RequestError(f"{folder} was not tuned: it has no settings to take.", fix="leave --settings out to tune")
    settings = {arm: Settings(**found) for arm, found in content["settings"].items()}
    grid = content["grid"]
    return Chosen(settings, content["tuning"], grid.get("tuned_under") or under(grid))


def under(grid: dict[str, Any]) -> dict[str, Any]:
    """What the trials of a comparison are trained under; `grid` as in results.json."""
    return {name: grid[name] for name in ("protocol", "steps", "batch_size")} | {"base": grid["base"]["name"]}


def without_tuned(grid: Grid, given: Chosen, compared: Collection[str] = ()) -> Grid:
    """The grid without the subjects that the given settings were tuned on, as one that tunes itself leaves them out.

    compared: those of which cells are finished already; they stay, and the report says that they were tuned on.
    Raises: Problems if such a subject is named among those compared.
    """
    tuned_on = [trial["subject"] for trial in given.trials if trial["subject"] not in compared]
    return check(
        grid.model_dump() | {"left_out": list(dict.fromkeys([*grid.left_out, *tuned_on]))},
        "the request with --settings",
    )
