"""A run that --overwrite replaces: it lies aside until the new one has begun, and comes back if that never does.

Aside is `.NAME.old-XXXX/NAME`, beside its place. There the next who comes finds it (`left_aside`), if the process that
put it there was killed.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from pathlib import Path

from symdream.training.run_lock import RunLock

GONE = ".gone"  # ends the name of what is being removed


class ReplacedRun:
    """The run that lies aside at `path`."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = RunLock(path / "lock")

    @classmethod
    def put_aside(cls, place: Path) -> ReplacedRun:
        """Move the run at `place`, whose lock this process has."""
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.old-", dir=place.parent))
        os.replace(place, aside / place.name)
        return cls(aside / place.name)

    def hold(self) -> bool:
        """Take its lock, so that nobody else puts it back meanwhile; False where somebody has it, or nobody can."""
        try:
            return self._lock.take()
        except OSError:
            return False

    def release(self) -> None:
        self._lock.release()

    def put_back(self, place: Path) -> None:
        """Give it its place again, instead of whatever has begun there."""
        if place.exists():
            os.replace(place, self.path.parent / "begun")
        os.replace(self.path, place)
        self.drop()

    def drop(self) -> None:
        """Remove what lies aside, under another name first: no half of it shall ever be put back."""
        folder = self.path.parent
        gone = folder.with_name(folder.name + GONE)
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)


def left_aside(place: Path) -> list[ReplacedRun]:
    """The runs that were at `place` and lie aside; what a killed process had begun to remove of them goes."""
    left = []
    for folder in sorted(place.parent.glob(f".{glob.escape(place.name)}.old-*")):
        if folder.name.endswith(GONE):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            left.append(ReplacedRun(folder / place.name))
    return left
