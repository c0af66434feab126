"""metrics.jsonl: a line for every optimizer step, written in blocks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from symdream.files import disk_error, write_text


class MetricsFile:
    """The lines of the file at `path`, and those that wait to be written to it."""

    def __init__(self, path: Path):
        self.path = path
        self._waiting: list[str] = []

    def record(self, **values: Any) -> None:
        """Add a line; it reaches the disk with `flush`."""
        self._waiting.append(json.dumps(values))

    def flush(self) -> None:
        """Bring the waiting lines to the disk: all of them or, on a full one, none."""
        if not self._waiting:
            return
        try:
            with self.path.open("ab", buffering=0) as file:
                size, left = file.tell(), memoryview(("\n".join(self._waiting) + "\n").encode())
                try:
                    while left:
                        left = left[file.write(left) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), size)
                    raise
        except OSError as error:
            raise disk_error(self.path, error) from error
        self._waiting.clear()

    def truncate(self, step: int) -> None:
        """Drop the lines after `step`: a resumed run writes them again."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line)
            except (json.JSONDecodeError, KeyError, TypeError):
                continue  # the last line of a killed process may be cut short
        write_text(self.path, "".join(line + "\n" for line in kept), parents=False)
