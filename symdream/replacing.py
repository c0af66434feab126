"""What --overwrite may replace: a file by a file, and a folder only by another of its kind. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from symdream.errors import RequestError

Kind = Literal["file", "base", "peft"]
# Per kind of folder: what it is, and the pattern of the files that only such a one has.
FOLDERS = {"base": ("a base", "model_index.json"), "peft": ("a PEFT adapter", "*/adapter_config.json")}


def in_the_way(path: Path, overwrite: bool, kind: Kind) -> tuple[str, str] | None:
    """What is wrong with writing a `kind` to `path`, and what to do, or None if nothing is."""
    if not path.exists():
        return None
    if kind == "file":
        if path.is_dir():
            return "is a folder", "choose another"
    elif not path.is_dir():
        return "is a file", "choose another"
    elif any(path.iterdir()):
        name, pattern = FOLDERS[kind]
        if (path / "config.toml").exists() or not any(path.glob(pattern)):
            return f"exists already and is not {name}, all that --overwrite would replace here", "choose another"
    return None if overwrite else ("exists already", "choose another, or add --overwrite")


def refuse_existing(path: Path, overwrite: bool, kind: Kind) -> None:
    """Raises: RequestError if `path` is there and must stay."""
    if wrong := in_the_way(path, overwrite, kind):
        raise RequestError(f"{path} {wrong[0]}; nothing was written.", fix=wrong[1])
