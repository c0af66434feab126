"""The lock of a run folder: whoever has it works there, and it ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path


class RunLock:
    """An flock on the file at `path`, taken or not by this object."""

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def take(self) -> bool:
        """Take the lock until `release`, or the end of this process. False where somebody has it.

        Raises: OSError if the file is not there and cannot be made.
        """
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        for pause in (0.02, 0.05, None):  # a try or two more pass over the instant in which somebody only looks
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._descriptor = descriptor
                return True
            except OSError:
                if pause is not None:
                    time.sleep(pause)
        os.close(descriptor)
        return False

    def mark(self) -> None:
        """Set the file's time to now; this process has the lock."""
        os.utime(self._descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def is_taken(self) -> bool:
        """Whether anybody has it, this process included; a look hinders nobody who comes to take it."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except OSError:
            return True
        finally:
            os.close(descriptor)
