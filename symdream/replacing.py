"""What --overwrite may replace: a file by a file, and a folder only by another of its kind. Needs no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from symdream.errors import RequestError
from symdream.interop.grouping import WEIGHTS
from symdream.interop.keys import COMPONENTS
from symdream.interop.strength import PEFT_CONFIG

Kind = Literal["file", "base", "peft"]
NAMES = {"base": "a base", "peft": "a PEFT adapter"}
BASE_PARTS = {"unet", "vae", "scheduler", "safety_checker", "feature_extractor", "image_encoder"}
BASE_PARTS |= {"text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"}
BASE_FILES = {"model_index.json", "README.md", "LICENSES.md", "LICENSE.md", "LICENSE"}
PEFT_FILES = {PEFT_CONFIG, WEIGHTS, "README.md"}


def in_the_way(path: Path, overwrite: bool, kind: Kind) -> tuple[str, str] | None:
    """What is wrong with writing a `kind` to `path`, and what to do, or None if nothing is."""
    if not path.exists():
        return None
    if kind == "file":
        if path.is_dir():
            return "is a folder", "choose another"
    elif not path.is_dir():
        return "is a file", "choose another"
    elif any(path.iterdir()) and (why := _why_no(kind, path)):
        return f"exists already and is not {NAMES[kind]} alone, all that --overwrite replaces: {why}", "choose another"
    return None if overwrite else ("exists already", "choose another, or add --overwrite")


def _why_no(kind: Kind, folder: Path) -> str | None:
    """What tells that a folder is not what an export of this kind leaves, and no more than that."""
    parts, files = (BASE_PARTS, BASE_FILES) if kind == "base" else (COMPONENTS, ())
    for entry in sorted(folder.iterdir()):
        known = entry.name.startswith(".") or entry.name in (parts if entry.is_dir() else files)
        if not known:
            return f"there is {entry.name}"
    if kind == "base":
        return None if (folder / "model_index.json").is_file() else "there is no model_index.json"
    if folder.name == "adapter" and (folder.parent / "config.toml").exists():
        return "it is what a run has trained"
    inside = [file for part in sorted(folder.iterdir()) if part.is_dir() for file in sorted(part.iterdir())]
    return next((f"there is {file.parent.name}/{file.name}" for file in inside if file.name not in PEFT_FILES), None)


def refuse_existing(path: Path, overwrite: bool, kind: Kind) -> None:
    """Raises: RequestError if `path` is there and must stay."""
    if wrong := in_the_way(path, overwrite, kind):
        raise RequestError(f"{path} {wrong[0]}; nothing was written.", fix=wrong[1])
