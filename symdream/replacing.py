"""What --overwrite may replace: a file by a file, and a folder only by another of its kind. Needs no torch."""

from __future__ import annotations

import re
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
BASE_PART_FILE = re.compile(
    r"((scheduler_|preprocessor_|tokenizer_|generation_)?config|vocab|tokenizer|special_tokens_map|added_tokens)\.json|"
    r"merges\.txt|(diffusion_pytorch_)?model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?|LICENSE(\.md|\.txt)?"
)
PEFT_PART_FILE = re.compile("|".join(map(re.escape, (PEFT_CONFIG, WEIGHTS, "README.md"))))
DEBRIS = {".DS_Store"}  # what macOS leaves in a folder that was looked at


def in_the_way(path: Path, overwrite: bool, kind: Kind) -> tuple[str, str] | None:
    """What is wrong with writing a `kind` to `path`, and what to do, or None if nothing is."""
    if not path.exists():
        return None
    if kind == "file":
        if path.is_dir():
            return "is a folder", "choose another"
    elif not path.is_dir():
        return "is a file", "choose another"
    elif Path.cwd().is_relative_to(path.resolve()):
        return "is the folder that this command runs in, or holds it", "choose another"
    elif any(path.iterdir()) and (why := _why_no(kind, path)):
        return f"exists already and is not {NAMES[kind]} alone, all that --overwrite replaces: {why}", "choose another"
    return None if overwrite else ("exists already", "choose another, or add --overwrite")


def _why_no(kind: Kind, folder: Path) -> str | None:
    """What tells that a folder is not what an export of this kind leaves, and no more than that."""
    base = kind == "base"
    parts, files, inside = (BASE_PARTS, BASE_FILES, BASE_PART_FILE) if base else (COMPONENTS, (), PEFT_PART_FILE)
    for entry in _entries(folder):
        if entry.name not in (parts if entry.is_dir() else files):
            return f"there is {entry.name}"
        for file in _entries(entry) if entry.is_dir() else ():
            if file.is_dir() or not inside.fullmatch(file.name):
                return f"there is {entry.name}/{file.name}"
    if base and not (folder / "model_index.json").is_file():
        return "there is no model_index.json"
    if not base and folder.name == "adapter" and (folder.parent / "config.toml").exists():
        return "it is what a run has trained"
    return None


def _entries(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.name not in DEBRIS)


def refuse_existing(path: Path, overwrite: bool, kind: Kind) -> None:
    """Raises: RequestError if `path` is there and must stay."""
    if wrong := in_the_way(path, overwrite, kind):
        raise RequestError(f"{path} {wrong[0]}; nothing was written.", fix=wrong[1])
