"""What the config.toml of a run means to another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symdream.ui import say

BESIDE = ("state.json", "env.json", "lock")  # one of these lies beside the config.toml of every run


def without_permission(path: Path, settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the file at `path` without the `overwrite` that runs of earlier versions kept in theirs.

    It was the permission of the call that made the run. A file that is no run's, and the flags `given`, may say it.
    """
    output = settings.get("output")
    if not isinstance(output, Mapping) or not output.get("overwrite") or not is_of_a_run(path):
        return dict(settings)
    if not given.get("overwrite"):
        say(f"note: overwrite = true in {path} was for that run alone; --overwrite lets this one replace another.")
    return {**settings, "output": {name: value for name, value in output.items() if name != "overwrite"}}


def is_of_a_run(path: Path) -> bool:
    return path.name == "config.toml" and any((path.parent / name).exists() for name in BESIDE)
