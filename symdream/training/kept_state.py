"""state.json of a run as it stands before a process goes on with it, to be put back where that comes to nothing."""

from __future__ import annotations

import os
from pathlib import Path

from symdream.files import read_json, write_atomically


class KeptState:
    """The state.json at `path` as it is now, which may be damaged or not there."""

    def __init__(self, path: Path):
        self.path = path
        self._content = path.read_bytes() if path.exists() else None
        self._time = path.stat().st_mtime_ns if path.exists() else 0
        self._values = read_json(path)

    def is_running_in(self, pid: int) -> bool:
        """Whether it says that process `pid` trains: the app writes so of the process that it starts."""
        return self._values.get("status") == "running" and self._values.get("pid") == pid

    def put_back(self) -> None:
        """Write it as it was, with its time: a process younger than the file is not the one that it names.

        Raises: WorkError, OSError if it cannot be written.
        """
        if self._content is None:
            self.path.unlink(missing_ok=True)
        else:
            write_atomically(self.path, self._write, parents=False)

    def _write(self, place: Path) -> None:
        place.write_bytes(self._content)
        os.utime(place, ns=(self._time, self._time))
