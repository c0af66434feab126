"""What lies among the photos of a folder and looks like photos too, but is not read."""

from __future__ import annotations

from pathlib import Path

from PIL.ImageFile import StubImageFile

from symdream.data.images import SUFFIXES, opened
from symdream.errors import RequestError

# Pictures and films that a camera may leave among the photos: not all of them are known to Pillow.
UNREAD = {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".jxl", ".jp2", ".psd", ".svg"}
UNREAD |= {".mov", ".mp4"}
TEXTS = {".txt", ".caption", ".toml"}  # beside photos these are ours, whatever they begin with


def unread_pictures(folder: Path) -> list[Path]:
    """Files of `folder`, other than hidden ones, that are pictures by their name or content but are not read."""
    others = [p for p in _visible(folder) if p.is_file() and p.suffix.lower() not in SUFFIXES | TEXTS]
    return [p for p in others if p.suffix.lower() in UNREAD or _is_picture(p)]


def unread_folders(folder: Path) -> list[Path]:
    """Sub-folders of `folder` with pictures; none where a prompts.toml lays out what they are for."""
    if (Path(folder) / "prompts.toml").is_file():
        return []
    return [p for p in _visible(folder) if p.is_dir() and any(q.suffix.lower() in SUFFIXES for q in _visible(p))]


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(p for p in Path(folder).iterdir() if not p.name.startswith("."))
    except PermissionError:
        return []


def _is_picture(path: Path) -> bool:
    try:
        with opened(path) as image:
            return not isinstance(image, StubImageFile)  # which Pillow knows by its first bytes alone: HDF5, GRIB
    except RequestError:
        return False
