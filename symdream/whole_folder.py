"""Writes a folder whole or not at all, as write_atomically does with a file."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from symdream.training.run_folder import disk_error, fsync_folder, fsync_tree


def write_folder(folder: Path, write: Callable[[Path], Any], *, parents: bool = True) -> None:
    """Let `write` fill a temporary folder beside `folder`, fsync it, then put it in the place of `folder`.

    parents: make the folders that it lies in, as write_atomically does.
    Raises: WorkError if there is no space or no permission; `folder` is then as it was before.
    """
    # Through a link: what it leads to is replaced, on its own disk. And "." has no name to make others of.
    folder = Path(os.path.realpath(folder))
    new, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("tmp", "old"))
    try:
        shutil.rmtree(new, ignore_errors=True)  # a killed process may have had this number
        new.mkdir(parents=parents)
        write(new)
        _open_to_others(new)
        fsync_tree(new)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
        fsync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise disk_error(folder, error) from error
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def _open_to_others(folder: Path) -> None:
    """Give the files the mode that the user's umask gave to `folder`: safetensors itself makes files private."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)
