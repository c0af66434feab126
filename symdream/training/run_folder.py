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

import fcntl
import glob
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symdream.errors import RequestError, typed
from symdream.files import disk_error, read_json, write_json, write_text
from symdream.ui import say
from symdream.whole_folder import put_back

if TYPE_CHECKING:
    from symdream.config import TrainConfig

# Where torchrun and the MPI launchers tell a process its number, and how many there are.
RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
GONE = ".gone"  # ends the name of a replaced run that is being removed
# What a run has in its folder before its first step.
STARTED = {"config.toml", "state.json", "env.json", "lock", "log.txt", "checkpoints", "samples", "tensorboard", "wandb"}
STATUSES = ("queued", "running", "stopped", "finished", "failed")


def is_leader() -> bool:
    """True in the one process that writes, known before accelerate has started."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


class RunFolder:
    """One run's folder and the files in it that say how the run is doing."""

    def __init__(self, path: Path):
        self.path = Path(path)
        self._lock: int | None = None
        self._lines: list[str] = []
        self.since = time.time()  # when the command, or the call, that trains here began
        self.seconds_before = 0.0  # what earlier processes spent on the steps that are kept
        self.replaces = False  # the run that is here now
        self.replaced: Path | None = None  # where that lies from `acquire` on, until this one begins

    # Places
    real = property(lambda self: Path(os.path.realpath(self.path)))  # where a link leads: that folder is replaced
    config = property(lambda self: self.path / "config.toml")
    env = property(lambda self: self.path / "env.json")
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

        Raises: RequestError if another process trains here.
        """
        self._lock = self._taken_lock()
        if self.replaces:
            aside = Path(tempfile.mkdtemp(prefix=f".{self.real.name}.old-", dir=self.real.parent))
            os.replace(self.real, aside / self.real.name)
            old = RunFolder(aside / self.real.name)
            old._lock, self._lock = self._lock, None  # held on, so that nobody puts it back meanwhile
            self.replaces, self.replaced = False, old.path
            self.real.mkdir()
            self._lock = self._taken_lock()
            old.release()
        for aside in self.path.glob(".*.old"):  # those among the checkpoints were damaged
            put_back(aside)
        for folder in (self.path, self.checkpoints, self.samples):
            for leftover in [p for p in folder.glob(".*") if _is_debris(p.name)]:
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def begin(self, since: float | None = None) -> None:
        """This process, which holds the lock, is going to train: `is_loading` tells by it, and `seconds` counts from
        here, or from `since` (seconds since the epoch)."""
        os.utime(self._lock)
        self.since, self.seconds_before = since or time.time(), 0.0

    @property
    def is_loading(self) -> bool:
        """Whether the process that was to train last has not come to it: what lies in metrics.jsonl is older.

        A process that goes on with a run writes the file anew before its first step (`truncate_metrics`).
        """
        try:
            return self.metrics.stat().st_mtime_ns < (self.path / "lock").stat().st_mtime_ns
        except OSError:
            return not self.metrics.exists()

    def _taken_lock(self) -> int:
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        if not _lock(descriptor):
            os.close(descriptor)
            pid = self.read_state().get("pid")
            raise RequestError(
                f"{self.path} is being trained by another process" + (f" (pid {pid})." if pid else "."),
                fix=f"wait for it, or stop it: touch {typed(self.stop_file)}",
            )
        return descriptor

    def _hold(self) -> bool:
        """Take the lock, if there is nobody who holds it and the folder can be written to."""
        try:
            self._lock = self._taken_lock()
        except (OSError, RequestError):
            return False
        return True

    def release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def is_locked(self) -> bool:
        """Whether a process trains or evaluates here now. One that was killed holds nothing: its lock ended with it."""
        try:
            descriptor = os.open(self.path / "lock", os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the folder of a run without any step (this process holds its lock); what it replaced comes back."""
        assert self._lock is not None and not self.trained
        old = None if self.replaced is None else RunFolder(self.replaced)
        if old is not None:
            old._hold()  # nobody else shall put it back meanwhile
        if old is None and self.path.is_symlink():  # made by somebody who wants it: only what is in it goes
            for entry in self.path.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        else:
            shutil.rmtree(self.real)
        if old is not None:
            os.replace(old.path, self.real)
            self.replaced.parent.rmdir()
            self.replaced = None
            old.release()

    def drop_replaced(self) -> None:
        """The first step is done, and its loss and gradient are good: the run that this one replaces goes."""
        if self.replaced is not None:
            _remove_aside(self.replaced.parent)
            self.replaced = None

    def put_back(self) -> None:
        """Put back the run that a killed process had put aside for one which had not come to its first step, and say
        so. Where something else lies in its place, none is touched and the one aside is named. Nothing happens where a
        process is at work.
        """
        for folder in sorted(self.real.parent.glob(f".{glob.escape(self.real.name)}.old-*")):
            aside = RunFolder(folder / self.real.name)
            if folder.name.endswith(GONE):
                shutil.rmtree(folder, ignore_errors=True)
            # A process that puts aside holds the old lock until it has the new one (`acquire`): in this order.
            elif is_run(aside.path) and aside._hold() and not self.is_locked():
                if self._gives_way():
                    if self.path.exists():
                        os.replace(self.real, folder / "begun")
                    os.replace(aside.path, self.real)
                    _remove_aside(folder)
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
        from symdream import config as settings

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
        return self.seconds_before + time.time() - self.since

    def record(self, **values: Any) -> None:
        """Add one line to metrics.jsonl; lines reach the disk in blocks (`flush`)."""
        self._lines.append(json.dumps(values))

    def flush(self) -> None:
        """Bring the waiting lines of metrics.jsonl to the disk: all of them or, on a full one, none."""
        if not self._lines:
            return
        try:
            with self.metrics.open("ab", buffering=0) as file:
                size, left = file.tell(), memoryview(("\n".join(self._lines) + "\n").encode())
                try:
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise disk_error(self.metrics, error) from error
        self._lines.clear()

    def truncate_metrics(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        if not self.metrics.exists():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the last line of a killed process may be cut short
        write_text(self.metrics, "".join(line + "\n" for line in kept), parents=False)

    def update_summary(self, **values: Any) -> None:
        """Set keys of summary.json, keeping the others."""
        write_json(self.summary, {**self.read_summary(), **values}, parents=False)

    def read_summary(self) -> dict[str, Any]:
        return read_json(self.summary)


def _remove_aside(folder: Path) -> None:
    """Remove what a run put aside, under another name first: no half of it shall ever be put back."""
    gone = folder.with_name(folder.name + GONE)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def _lock(descriptor: int) -> bool:
    """Take the lock; a try or two more pass over the instant in which somebody only looks (`is_locked`)."""
    for pause in (0.02, 0.05, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if pause is not None:
                time.sleep(pause)
    return False


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
