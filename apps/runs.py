"""The runs of one folder: how each is doing, and the queue in which they train, one at a time.

A run trains in a process of its own, which neither a closed browser nor a closed app ends. All that is known of it
lies in its run folder: state.json, lock, stop and metrics.jsonl. A run that waits is a folder with config.toml and
the status "queued"; whoever has an app open takes the oldest when nothing else trains (`start_next`), and a lock on
the folder of runs lets two apps share one queue.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from symdream.config import TrainConfig
from symdream.errors import RequestError, SymdreamError
from symdream.files import disk_error, write_json, write_text
from symdream.settings import to_toml
from symdream.training.absolute_paths import with_absolute_paths
from symdream.training.processes import SCRIPT
from symdream.training.request import read_request, settings_of
from symdream.training.run_folder import RunFolder, is_run, new_run_path
from symdream_apps.context import HOME, nameable
from symdream_apps.run_status import BUSY, Status, last_change, state_of, status_of, told

log = logging.getLogger("symdream.app")

TERMINAL = "terminal.txt"  # what the process printed: log.txt, and what no log could catch
PHOTOS = "photos"
NAME_BYTES = 120  # of a name: file systems take 255, and endings are added to it


class Runs:
    """The runs in `folder`, and the queue of those that are to be trained. Holds nothing that the folder does not."""

    def __init__(self, folder: Path):
        self.folder = Path(folder).resolve()
        self.home = self.folder / HOME
        self.trash = self.home / "trash"
        self._children: list[subprocess.Popen] = []
        self._reaping = threading.Lock()

    # What is there

    def names(self) -> list[str]:
        """All runs, the one that was last written to first."""
        if not self.folder.is_dir():
            return []
        found = [
            path
            for path in self.folder.iterdir()
            if is_run(path) and not path.name.startswith(".") and not path.is_symlink()
        ]
        return [path.name for path in sorted(found, key=last_change, reverse=True)]

    def get(self, name: str) -> RunFolder:
        """The run called `name`.

        Raises: RequestError if there is none here; a name is no path, so nothing outside of the folder is one.
        """
        plain = isinstance(name, str) and name and name == Path(name).name and not name.startswith(".")
        if not plain or not nameable(name) or not is_run(self.folder / name) or (self.folder / name).is_symlink():
            raise RequestError(f"There is no run {name!r} here.", fix="choose one of the list, or reload the page")
        return RunFolder(self.folder / name)

    def status(self, name: str) -> Status:
        return next(status for status in self._statuses([self.get(name).path.name]))

    def statuses(self) -> list[Status]:
        """All runs, the busy ones first, then the queue in its order, then the others by their last change."""
        found = list(self._statuses(self.names()))
        return sorted(found, key=lambda s: (not s.busy, not s.place, s.place))

    def _statuses(self, names: list[str]) -> Iterator[Status]:
        queue = self.queue()
        for name in names:
            place = queue.index(name) + 1 if name in queue else 0
            yield status_of(RunFolder(self.folder / name), place)

    def queue(self) -> list[str]:
        """The runs that wait, the one whose turn it is first."""
        waiting = [name for name in self.names() if state_of(RunFolder(self.folder / name)).get("status") == "queued"]
        return sorted(waiting, key=lambda name: last_change(self.folder / name))

    # What a person does

    def add(self, name: str, flags: dict[str, Any], preset: str | None, fill: Callable[[Path], None] | None) -> str:
        """Put a new run into the queue and return its name, which is `name` or, where that is taken, name-2, name-3 ….

        `flags` are settings by their flat names. `fill` writes the photos into the folder that it is given, which
        lies in the run folder: the run keeps them, so that it can be resumed. None: `flags` name a folder.
        Raises: Problems, RequestError, WorkError (a full disk); nothing is left behind then.
        """
        with self._locked():
            run = RunFolder.create(new_run_path(self.folder, name))
            try:
                if fill is not None:
                    (run.path / PHOTOS).mkdir()
                    fill(run.path / PHOTOS)
                    flags = {**flags, "images": run.path / PHOTOS}
                given = {**flags, "output": run.path}
                config = read_request(SimpleNamespace(config=None, preset=preset, given=given))
                write_text(run.config, to_toml(with_absolute_paths(config)))
                run.write_state("queued", step=0, steps=config.training.steps)  # last: it may start from here on
            except BaseException as error:
                shutil.rmtree(run.path, ignore_errors=True)
                if isinstance(error, OSError):
                    raise disk_error(run.path, error) from error
                raise
        return run.path.name

    def resume(self, name: str) -> None:
        """Put a run that was stopped, failed or was killed back into the queue.

        Raises: RequestError if it is not one of these, or its settings or photos are gone.
        """
        run = self.get(name)
        with self._locked():
            status = self.status(name)
            if not status.resumable:
                raise RequestError(f"{name} is {status.status}: there is nothing to resume.")
            settings_of(run)
            saved = state_of(run).get("step", 0)  # where it goes on from, which may be before the step it reached
            run.write_state("queued", step=saved, steps=status.steps)

    def stop(self, name: str) -> str:
        """Ask a run to stop and say in a sentence what will come of it; take it out of the queue if it still waits.

        Raises: RequestError if it neither trains nor waits.
        """
        run = self.get(name)
        with self._locked():
            status = self.status(name)
            if status.status == "queued":
                run.write_state("stopped", step=status.step, steps=status.steps)
                return f"{name} is out of the queue."
        # A trainer removes an old stop file when it takes its lock, so that one made before would be lost.
        deadline = time.monotonic() + 20
        while status.status == "starting" and time.monotonic() < deadline:
            time.sleep(0.1)
            status = self.status(name)
        if status.status not in ("running", "stopping"):
            raise RequestError(f"{name} is {status.status}: there is nothing to stop.")
        try:
            run.stop_file.touch()
        except OSError as error:
            raise disk_error(run.stop_file, error) from error
        return f"{name} ends after the step that it is at, and saves everything."

    def rename(self, name: str, new: str) -> None:
        """Give a run another name.

        Raises: RequestError if the name is no plain one or is taken, or the run is at work, or its photos would be lost
        (see `_moved`); WorkError (a full disk). It has its old name then.
        """
        new, run = checked_name(new), self.get(name)
        with self._locked():
            self._not_busy(name, "rename")
            if new == name:
                return
            if (self.folder / new).exists():
                raise RequestError(f"{new} exists already.", fix="choose another name")
            config = self._moved(run, self.folder / new)
            os.rename(run.path, self.folder / new)
            if config is None:
                return
            try:
                write_text(self.folder / new / run.config.name, to_toml(config))
            except BaseException:  # a full disk, as a rule
                os.rename(self.folder / new, run.path)
                raise

    @staticmethod
    def _moved(run: RunFolder, to: Path) -> TrainConfig | None:
        """The settings of `run` as they are to be at `to`: they name the run, and photos that lie in it, by whole
        paths. None: they cannot be read, so they stay as they are.

        Raises: RequestError if they cannot be read and photos lie in the run, which nothing else tells where to find.
        """
        try:
            config = run.read_config()
        except (RequestError, OSError) as error:
            if not (run.path / PHOTOS).is_dir():
                return None
            raise RequestError(
                f"{run.path.name} cannot be renamed: its config.toml says where its photos are, and cannot be read.",
                where=" ".join(str(error).split()),
                fix="mend config.toml first",
            ) from error
        before, after = run.path.resolve(), to.resolve()
        for subject in config.learned:
            if subject.images and subject.images.is_relative_to(before):
                subject.images = after / subject.images.relative_to(before)
        config.output.output = to
        return config

    def delete(self, name: str) -> Path:
        """Move a run into the trash folder beside the runs, and return where it lies now.

        Raises: RequestError if it is at work.
        """
        run = self.get(name)
        with self._locked():
            self._not_busy(name, "delete")
            self.trash.mkdir(exist_ok=True)
            place = new_run_path(self.trash, name)
            os.rename(run.path, place)
        return place

    def _not_busy(self, name: str, verb: str) -> None:
        status = self.status(name)
        if status.busy:
            raise RequestError(f"{name} is {status.status}; {verb} it when that is over.", fix="stop it first, or wait")

    # The queue

    def start_next(self) -> str | None:
        """Start the oldest run that waits, unless one is at work; returns its name.

        Two apps on one folder start nothing twice. A run whose settings or photos are gone fails, and says so.
        """
        with self._reaping:
            self._children = [child for child in self._children if child.poll() is None]  # no zombies
        if not self.queue():
            return None
        with self._locked():
            if any(told(RunFolder(self.folder / name))[0] in BUSY for name in self.names()):
                return None
            for name in self.queue():
                run = RunFolder(self.folder / name)
                state = state_of(run)
                try:
                    settings_of(run)
                    self._start(run, state)
                    return name
                except (SymdreamError, OSError) as error:
                    run.write_state("failed", step=state.get("step", 0), steps=state.get("steps", 0), error=str(error))
        return None

    def _start(self, run: RunFolder, state: dict[str, Any]) -> None:
        # This very installation, whatever folder the app was started in; an argument list, never a shell.
        argv = [sys.executable, str(SCRIPT), "--resume", str(run.path.resolve())]
        with (run.path / TERMINAL).open("ab") as terminal:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.STDOUT, start_new_session=True
            )
        with self._reaping:
            self._children.append(child)
        # It says the same of itself once it has the lock, after a second of imports.
        write_json(run.state, {**state, "status": "running", "pid": child.pid, "error": None})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else adds, starts, moves or removes runs of this folder meanwhile."""
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.home / "queue.lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise disk_error(self.home, error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def checked_name(name: str) -> str:
    """`name` without spaces around it. Raises: RequestError if it is not fit for a file or folder."""
    name = name.strip()
    plain = name and name == Path(name).name and not name.startswith(".") and name.isprintable()
    if not plain or len(name.encode()) > NAME_BYTES:
        raise RequestError(f"{name!r} is no name for it.", fix="take letters, digits, - and _")
    return name


class Keeper:
    """Looks after the queue while an app is open, whether or not a browser is."""

    def __init__(self, runs: Runs, seconds: float = 2.0):
        self.runs, self.seconds = runs, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="queue of runs", daemon=True)

    def start(self) -> Keeper:
        self._thread.start()
        return self

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(self.seconds):
            try:
                self.runs.start_next()
            except Exception:
                # A full disk, a folder taken away: the next look may find them mended.
                log.exception("the queue of runs")
