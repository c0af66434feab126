"""The run folder: all that a run knows, and the only thing that trainer, app and bench share.

    config.toml   complete, re-runnable      state.json    status, step, pid, error
    env.json      versions, device, base     lock          flock, held by the training process
    metrics.jsonl one line per step          log.txt       what the terminal said
    samples/  checkpoints/step-N/  adapter/unet/  adapter/text_encoder/  summary.json
    validation.jsonl, selection.json, checkpoints/best    where losses and pictures are looked at on the way
    stop          (made by anybody) asks the run to save its state and end

Everything but metrics.jsonl and log.txt is written to a temporary name, fsynced and renamed, so that a
reader, or a run resumed after a crash, never sees half a file.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symdream.errors import RequestError, typed
from symdream.files import read_json, write_json
from symdream.training.metrics_file import MetricsFile
from symdream.training.ranks import is_leader
from symdream.training.replaced_run import ReplacedRun, left_aside
from symdream.training.run_lock import RunLock
from symdream.ui import say
from symdream.whole_folder import put_back

if TYPE_CHECKING:
    from symdream.config import TrainConfig

# What a run has in its folder before its first step.
STARTED = {"config.toml", "state.json", "env.json", "lock", "log.txt", "checkpoints", "samples", "tensorboard", "wandb"}
STATUSES = ("queued", "running", "stopped", "finished", "failed")


class RunFolder:
    """One run's folder and the files in it that say how the run is doing."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._lock = RunLock(self.path / "lock")
        self.lines = MetricsFile(self.metrics)
        self.count_seconds()
        self.asked_too_late = False  # to stop: after the last step, or in it
        self.replaces = False  # the run that is here now
        self.replaced: ReplacedRun | None = None  # that run, from `acquire` on, until this one begins

    # Places
    real = property(lambda self: Path(os.path.realpath(self.path)))  # where a link leads: that folder is replaced
    config = property(lambda self: self.path / "config.toml")
    env = property(lambda self: self.path / "env.json")
    selection = property(lambda self: self.path / "selection.json")
    state = property(lambda self: self.path / "state.json")
    log = property(lambda self: self.path / "log.txt")
    metrics = property(lambda self: self.path / "metrics.jsonl")
    samples = property(lambda self: self.path / "samples")
    checkpoints = property(lambda self: self.path / "checkpoints")
    adapter = property(lambda self: self.path / "adapter")
    summary = property(lambda self: self.path / "summary.json")
    stop_file = property(lambda self: self.path / "stop")

    @classmethod
    def create(cls, path: Path, *, overwrite: bool = False) -> RunFolder:
        """Make a new run folder. One in which a killed process had not yet written config.toml counts as new.

        A run that it replaces stays where it is until `acquire`, and is only put aside until the new one begins
        (`drop_replaced`); `remove` puts it back.

        Raises: RequestError if `path` is there and `overwrite` is off, or is something else than a run.
        """
        path = Path(path)
        run = cls(path)
        run.put_back()
        if path.exists() and not (path.is_dir() and all(_is_debris(name) for name in os.listdir(path))):
            if not is_run(path):
                raise RequestError(
                    f"{path} exists and is not a run folder{_why_not(path)}; --overwrite replaces only runs.",
                    fix="choose another --output, or remove it yourself",
                )
            if not overwrite:
                raise RequestError(
                    f"{path} exists; a run never writes over another.",
                    fix=f"choose another --output, continue it (symdream train --resume {typed(path)}), "
                    "or replace it with --overwrite",
                )
            run.acquire()
            run.release()
            run.replaces = True
        try:
            run.real.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"Could not make the run folder {path}: {error.strerror}.", fix="choose another --output"
            ) from error
        return run

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """An existing run folder. Raises: RequestError if there is none at `path`."""
        path = Path(path)
        if is_leader():
            cls(path).put_back()
        if not is_run(path):
            raise RequestError(
                f"{path} is not a run folder (no config.toml in it)." if path.exists() else f"No run folder {path}.",
                fix="name the folder that symdream train wrote, such as runs/dog",
            )
        return cls(path)

    def acquire(self) -> None:
        """Take the lock of this folder for this process until it ends; remove what a killed one left half written, and
        put back what it had put aside to replace it.

        Raises: RequestError if another process trains or evaluates here.
        """
        self._take_lock()
        if self.replaces:
            self.replaces, self.replaced = False, ReplacedRun.put_aside(self.real)
            old, self._lock = self._lock, RunLock(self._lock.path)
            self.real.mkdir()
            self._take_lock()
            old.release()  # only now, so that nobody has put it back meanwhile
        for aside in self.path.glob(".*.old"):  # those among the checkpoints were damaged
            put_back(aside)
        for folder in (self.path, self.checkpoints, self.samples):
            for leftover in [p for p in folder.glob(".*") if _is_debris(p.name)]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _take_lock(self) -> None:
        if self._lock.take():
            return
        import psutil

        problem, way = f"{self.path} is in use by another process", "wait for it"
        state = self.read_state()
        pid = state.get("pid")
        # Another status is that of a training which has ended, and so is "running" of one that was killed: whoever
        # has the lock, an evaluation, looks at no stop file.
        if state.get("status") == "running" and isinstance(pid, int) and psutil.pid_exists(pid):
            raise RequestError(f"{problem} (pid {pid}).", fix=f"{way}, or stop it: touch {typed(self.stop_file)}")
        raise RequestError(f"{problem}.", fix=way)

    def release(self) -> None:
        self._lock.release()

    def is_locked(self) -> bool:
        """Whether a process trains or evaluates here now. One that was killed holds nothing: its lock ended with it."""
        return self._lock.is_taken()

    def begin(self, age: float = 0.0) -> None:
        """This process, which holds the lock, is going to train: `is_loading` tells by it, and `seconds` counts from
        here, or from `age` seconds before."""
        self._lock.mark()
        self.count_seconds(age)

    def count_seconds(self, age: float = 0.0, before: float = 0.0) -> None:
        """Let `seconds` count from `age` seconds ago; before: what earlier processes spent on the steps that are kept.

        By the clock that nobody sets: between two steps a computer may learn the true time.
        """
        self._since, self.seconds_before = time.monotonic() - age, before

    @property
    def is_loading(self) -> bool:
        """Whether the process that was to train last has not come to it: what lies in metrics.jsonl is older.

        A process that goes on with a run writes the file anew before its first step (`MetricsFile.truncate`).
        """
        try:
            return self.metrics.stat().st_mtime_ns < self._lock.path.stat().st_mtime_ns
        except OSError:
            return not self.metrics.exists()

    def remove(self) -> None:
        """Remove the folder of a run without any step (this process holds its lock); what it replaced comes back."""
        assert self._lock.is_held and not self.trained
        if self.replaced is not None:
            self.replaced.hold()
            self.replaced.put_back(self.real)
            self.replaced.release()
            self.replaced = None
        elif self.path.is_symlink():  # made by somebody who wants it: only what is in it goes
            for entry in self.path.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        else:
            shutil.rmtree(self.real)

    def drop_replaced(self) -> None:
        """The first step is done, and its loss and gradient are good: the run that this one replaces goes."""
        if self.replaced is not None:
            self.replaced.drop()
            self.replaced = None

    def put_back(self) -> None:
        """Put back the run that a killed process had put aside for one which had not come to its first step, and say
        so. Where something else lies in its place, none is touched and the one aside is named. Nothing happens where a
        process is at work.
        """
        for aside in left_aside(self.real):
            # A process that puts aside holds the old lock until it has the new one (`acquire`): in this order.
            if is_run(aside.path) and aside.hold() and not self.is_locked():
                if self._gives_way():
                    aside.put_back(self.real)
                    say(
                        f"note: the run that was at {self.path} is there again: the one that was to replace it was "
                        "killed before its first step. Start that again with --overwrite."
                    )
                else:
                    say(
                        f"note: {aside.path} is what {self.path} once replaced, left by a killed process: remove it "
                        "or move it."
                    )
            aside.release()

    def _gives_way(self) -> bool:
        """Whether nothing is at this place, or only what a run leaves that was killed before its first step."""
        if not self.path.is_dir():
            return not self.path.exists()
        names = [name for name in os.listdir(self.path) if not _is_debris(name)]
        killed = self.read_state().get("status") == "running" and not self.trained
        return not names or (killed and STARTED.issuperset(names))

    @property
    def began(self) -> bool:
        """Whether base, photos and settings went together, and no run waits to be put back: there is a run to resume.

        env.json is written once they do; a run that is replaced goes after a good first step (`drop_replaced`).
        """
        return self.env.exists() and self.replaced is None

    @property
    def trained(self) -> bool:
        """Whether there is the fruit of a step here: its line in metrics.jsonl, a checkpoint, an adapter."""
        saved = self.checkpoints.is_dir() and any(self.checkpoints.iterdir())
        return saved or self.metrics.exists() or self.adapter.exists()

    def read_config(self) -> TrainConfig:
        """The settings in config.toml, checked. Raises: RequestError, Problems if they cannot be read or are wrong."""
        from symdream import settings

        return settings.build(settings.read_toml(self.config), str(self.config))

    def read_state(self) -> dict[str, Any]:
        """state.json, or an empty dict if it is not there or damaged: the checkpoints tell how far the run is."""
        return read_json(self.state)

    def write_state(self, status: str, *, step: int, steps: int, error: str | None = None) -> None:
        assert status in STATUSES
        write_json(
            self.state,
            {"status": status, "pid": os.getpid(), "step": step, "steps": steps, "error": error},
            parents=False,
        )

    def seconds(self) -> float:
        """What this run has taken: this command, and those that it goes on from up to their checkpoint."""
        return self.seconds_before + time.monotonic() - self._since

    def update_summary(self, **values: Any) -> None:
        """Set keys of summary.json, keeping the others."""
        write_json(self.summary, {**self.read_summary(), **values}, parents=False)

    def read_summary(self) -> dict[str, Any]:
        return read_json(self.summary)


def _is_debris(name: str) -> bool:
    """Names that a killed process can leave before config.toml is there, or half way through a write."""
    return name == "lock" or (name.startswith(".") and name.endswith((".tmp", ".old")))


def _why_not(path: Path) -> str:
    """What a file or folder that is no run is, as far as one can tell."""
    if not path.is_dir():
        return " (a file)"
    left = RunFolder(path)
    if left.trained or left.state.exists():
        return " (what is left of one whose config.toml is gone)"
    return " (no config.toml in it)"


def is_run(path: Path) -> bool:
    return (Path(path) / "config.toml").is_file()


def new_run_path(parent: Path, name: str) -> Path:
    """`parent/name`, or the first of name-2, name-3, … that is free."""
    path, count = parent / name, 1
    while path.exists():
        count += 1
        path = parent / f"{name}-{count}"
    return path
