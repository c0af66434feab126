"""Files that are written whole or not at all, and what to tell when they cannot be."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from symdream.errors import WorkError

MAKE_ROOM = "make room, or choose another place"
NOT_OURS = "make it writable, or choose another place"
DISK_FIXES = {
    None: MAKE_ROOM,
    errno.ENOSPC: MAKE_ROOM,
    errno.EDQUOT: "remove files of yours, whose share of that disk is used up, or choose another place",
    errno.EFBIG: "raise the limit on the size of a file (ulimit -f)",
    errno.EACCES: NOT_OURS,
    errno.EPERM: NOT_OURS,
    errno.EROFS: NOT_OURS,
}


def write_atomically(path: Path, write: Callable[[Path], Any], *, parents: bool = True) -> None:
    """Let `write` fill a temporary file beside `path`, fsync it, then rename it to `path`, or to where that link leads.

    parents: make the folders that `path` lies in. Not in a run, whose folder somebody removed if it is not there.
    Raises: WorkError if there is no space, no permission or no folder; `path` is then as it was before.
    """
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
    try:
        if parents:
            place.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, place)
        fsync_folder(place.parent)
    except (OSError, SafetensorError) as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):  # on a disk that turned read-only: what comes first is what to tell
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, parents: bool = True) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), parents=parents)


def write_json(path: Path, value: Any, *, parents: bool = True) -> None:
    write_text(path, json_text(value), parents=parents)


def json_text(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; an empty dict if there is none, or if a crash of the disk left only part of it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def fsync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename alone may be lost in a power cut)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Make every file under `folder`, and its name, durable."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            fsync_folder(path)
    fsync_folder(folder)


def disk_error(path: Path, error: Exception) -> WorkError:
    """What to tell when `path` could not be written (an OSError, or what safetensors makes of one)."""
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):
        number = int(told[1])
    if number == errno.ENOENT and (gone := [p for p in (path.parent, *path.parent.parents) if not p.exists()]):
        return WorkError(
            f"Could not write {path}: {gone[-1]} is gone, removed or moved meanwhile.",
            fix="if it was moved, go on with it where it is now; else start again",
        )
    free = shutil.disk_usage(path.parent if path.parent.exists() else Path("/")).free
    return WorkError(
        f"Could not write {path}: {getattr(error, 'strerror', None) or error}.",
        where=f"{free / 2**20:.0f} MiB are free on that disk" if number in (errno.ENOSPC, None) else None,
        fix=f"{DISK_FIXES.get(number, 'choose another place')}; what was saved before is intact",
    )
