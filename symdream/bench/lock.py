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
PAUSE = 0.2  # seconds between two looks
PATIENCE = 300  # seconds for the last step, or picture, of a process whose parent was killed


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Holds the folder, and gives the descriptor of the lock: whoever has a copy of it holds it, too.

    A process that was killed may leave workers behind, which end by themselves: they are waited for.
    Raises: RequestError if another process compares in this folder.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        looks = 0
        while not _take(descriptor, folder):
            if _alive(descriptor) or looks * PAUSE > PATIENCE:
                raise RequestError(
                    f"{folder} is in use by another symdream compare.",
                    fix="wait for it; shards of one grid each take an --output of their own and are merged afterwards",
                )
            # Not at the first look, which may come before one that has just taken the lock writes its number.
            if looks == 1:
                say(f"The compare that worked in {folder} was killed; waiting for its last process to end.")
            time.sleep(PAUSE)
            looks += 1
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RequestError(
            f"{folder} is on a file system that cannot lock files: {error.strerror}.", fix="choose another --output"
        ) from error
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
