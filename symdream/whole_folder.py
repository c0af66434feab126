"""Writes a folder whole or not at all, as write_atomically does with a file."""

from __future__ import annotations

import glob
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from symdream.files import disk_error, fsync_folder, fsync_tree

LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d{1,9})\.(?P<end>tmp|old)", re.DOTALL)


def write_folder(folder: Path, write: Callable[[Path], Any], *, parents: bool = True) -> None:
    """Let `write` fill a temporary folder beside `folder`, fsync it, then put it in the place of `folder`.

    parents: make the folders that it lies in, as write_atomically does. Of two renames in a row a killed process may
    have done one: what it had put aside comes back first, and what it left half written goes.
    Raises: WorkError if there is no space or no permission; `folder` is then as it was before.
    """
    # Through a link: what it leads to is replaced, on its own disk. And "." has no name to make others of.
    folder = Path(os.path.realpath(folder))
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        _clear(folder)
        new.mkdir(parents=parents)
        write(new)
        _open_to_others(new)
        fsync_tree(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        fsync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise disk_error(folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
        _settle(old)


def put_back(old: Path) -> None:
    """Give a `.NAME.PID.old` its name again, where there is none: its process was killed between the two renames."""
    name = LEFT.fullmatch(old.name)
    if name and not os.path.lexists(folder := old.with_name(name["name"])):
        old.rename(folder)


def _clear(folder: Path) -> None:
    """Put back or remove what processes that are gone left beside `folder`."""
    for left in sorted(folder.parent.glob(f".{glob.escape(folder.name)}.*")):
        name = LEFT.fullmatch(left.name)
        if name is None or name["name"] != folder.name or _at_work(int(name["pid"])):
            continue
        if name["end"] == "old":
            _settle(left)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _settle(old: Path) -> None:
    """Put `old` back where nothing has taken its place, else remove it: as .tmp, so that every .old is whole."""
    if not old.exists():
        return
    put_back(old)
    if old.exists():
        half = old.with_suffix(".tmp")
        shutil.rmtree(half, ignore_errors=True)
        old.rename(half)
        shutil.rmtree(half, ignore_errors=True)


def _at_work(pid: int) -> bool:
    """Whether another process of this number lives; that this one has the number of a killed one says nothing."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


def _open_to_others(folder: Path) -> None:
    """Give the files the mode that the user's umask gave to `folder`: safetensors itself makes files private."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
