"""How a run is doing, from its folder alone: state.json, lock, stop and metrics.jsonl."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from symdream.training.run_folder import RunFolder
from symdream_apps.wording import message, without_place

BUSY = ("starting", "running", "stopping", "evaluating")
RESUMABLE = ("stopped", "failed", "killed")
KINDS = {"status": str, "step": int, "steps": int, "error": str}  # in state.json
RECENT = 20  # steps from which the time left is told


@dataclass(frozen=True)
class Status:
    """How a run is doing.

    `status` is state.json's (queued, running, stopped, finished, failed), or what it and the lock say together:
    starting (the process is there, but has no lock yet), stopping (asked to, it ends after its step), killed (it
    holds no lock and said no goodbye), evaluating (another command holds the lock).
    """

    name: str
    status: str
    step: int
    steps: int
    seconds_left: float | None = None
    error: str | None = None
    place: int = 0  # in the queue, from 1; 0 for what does not wait

    @property
    def busy(self) -> bool:
        return self.status in BUSY

    @property
    def resumable(self) -> bool:
        return self.status in RESUMABLE


def state_of(run: RunFolder) -> dict[str, Any]:
    """state.json, without what is of another kind than it should be: one odd file must not hide the other runs."""
    return {key: value for key, value in _opened(run.read_state).items() if _is_usual(key, value)}


def _is_usual(key: str, value: Any) -> bool:
    if key not in KINDS:
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, TypeError):
        return False
    return isinstance(value, KINDS[key]) and (isinstance(value, str) or abs(value) < 2**63)


def summary_of(run: RunFolder) -> dict[str, Any]:
    """summary.json, or an empty dict where there is none."""
    return _opened(run.read_summary)


def _opened(read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return read()
    except OSError:  # a folder of that name, or not ours to read
        return {}


def metrics(run: RunFolder) -> list[dict[str, Any]]:
    """The steps in metrics.jsonl; a line that is being written is left out."""
    lines = []
    try:
        text = run.metrics.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    for line in text.splitlines():
        try:
            value = json.loads(line)
            lines.append({**value, "step": int(value["step"]), "loss": float(value["loss"])})
        except (ValueError, KeyError, TypeError, OverflowError):
            continue
    return lines


def status_of(run: RunFolder, place: int = 0) -> Status:
    """`place`: its place in the queue, if it waits."""
    status, state = told(run)
    step, steps, left = state.get("step", 0), state.get("steps", 0), None
    # state.json has the step that was saved last; the steps of a process before this one go when it begins to train.
    if status in ("running", "stopping", "failed", "killed") and not run.is_loading:
        lines = metrics(run)
        step = max(step, lines[-1]["step"] if lines else 0)
        left = _seconds_left(lines, steps - step) if status in BUSY else None
    place = place if status == "queued" else 0
    return Status(run.path.name, status, step, steps, left, _error(run, status, state, step), place)


def told(run: RunFolder) -> tuple[str, dict[str, Any]]:
    """What state.json and the lock say together, and state.json itself."""
    state = state_of(run)
    if run.is_locked():
        if state.get("status") == "finished":
            return "evaluating", state
        return "stopping" if run.stop_file.exists() else "running", state
    if state.get("status") != "running":
        return state.get("status") or "stopped", state
    if _began_before(state.get("pid"), run.state):
        return "starting", state
    state = state_of(run)  # it may have ended, and said so, between the two looks
    return ("killed" if state.get("status") == "running" else state.get("status") or "stopped"), state


def _began_before(pid: Any, file: Path) -> bool:
    """Whether process `pid` is alive and older than the file: a younger one only has the number of one that is gone."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and process.create_time() <= file.stat().st_mtime + 1
    except (psutil.Error, OSError, TypeError, ValueError):
        return False


def _error(run: RunFolder, status: str, state: dict[str, Any], step: int) -> str | None:
    if status != "killed":
        error = state.get("error")
        return None if error is None else without_place(message(error), run.path.parent)
    return (
        f"The training process ended without a word at step {step} of {state.get('steps', '?')}: it was killed, or the "
        f"machine ran out of memory or power.\n  fix:   Resume; it goes on {whence(run)}"
    )


def whence(run: RunFolder) -> str:
    """Where the run goes on from when it is resumed."""
    saved = [int(p.name[5:]) for p in run.checkpoints.glob("step-*") if p.name[5:].isdigit()]
    return f"from step {max(saved)}, its newest checkpoint" if saved else "from the beginning: nothing was saved yet"


def _seconds_left(lines: list[dict[str, Any]], steps: int) -> float | None:
    seconds = [line["seconds"] for line in lines[1:][-RECENT:] if isinstance(line.get("seconds"), int | float)]
    return statistics.median(seconds) * steps if seconds else None


def last_change(path: Path) -> int:
    """When the run at `path` was last written to, in nanoseconds; 0 if it is gone meanwhile."""
    try:
        return (path / "state.json").stat().st_mtime_ns
    except OSError:
        return 0
