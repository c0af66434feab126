"""Settings that an earlier comparison tuned, taken for this one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symdream.bench.cells import Settings
from symdream.bench.results import read_results
from symdream.errors import RequestError


def read_settings(path: Path) -> tuple[dict[str, Settings], list[dict[str, Any]]]:
    """The settings by arm in results.json (or in its folder), and the trials they come from.

    Raises: RequestError if there is no such file, it is of another format, or nothing was tuned in it.
    """
    folder = path if path.is_dir() else path.parent
    content = read_results(folder)
    if content is None:
        raise RequestError(f"No results.json in {folder}.", fix="name the folder of a comparison that was tuned")
    if not content.get("settings") or not content.get("tuning"):
        raise RequestError(f"{folder} was not tuned: it has no settings to take.", fix="leave --settings out to tune")
    return {arm: Settings(**found) for arm, found in content["settings"].items()}, content["tuning"]
