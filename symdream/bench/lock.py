"""Who may write into a comparison's folder: one process, and the workers that it sent out."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symdream.errors import RequestError
from symdream.ui import say

LOCK_FILE = "lock"


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds the folder, and gives the descriptor of the lock: whoever has a copy of it holds it, too.

    A process that was killed may leave workers behind, which end by themselves: they are waited for.
    Raises: RequestError if another process compares in this folder.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        waited = False
        while not _take(descriptor):
            if _alive(descriptor):
                raise RequestError(
                    f"{folder} is in use by another symdream compare.",
                    fix="wait for it; shards of one grid each take an --output of their own and are merged afterwards",
                )
            if not waited:
                say(f"The compare that worked in {folder} was killed; waiting for its last process to end.")
                waited = True
            time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _alive(descriptor: int) -> bool:
    """Whether the process that took the lock lives, as far as can be seen from this machine."""
    pid, _, machine = os.pread(descriptor, 300, 0).decode().partition(" ")
    if machine != socket.gethostname():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it is somebody else's
    return True
