"""Writes safetensors files that others may read, the same bytes for the same content."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def save_tensors(tensors: Mapping[str, Tensor], path: Path, texts: Mapping[str, str] | None = None) -> None:
    """safetensors' save_file (`texts` are its metadata), with the rights that the user's umask gives a new file and
    the texts in order: by itself it makes files private and orders texts at random.

    Raises: OSError, SafetensorError.
    """
    path.touch()
    mode = path.stat().st_mode
    save_file(dict(tensors), path, metadata=None if texts is None else dict(texts))
    if texts:
        _sort_texts(path)
    path.chmod(mode)


def _sort_texts(path: Path) -> None:
    """Put the texts of a file's header in order, in place."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode().ljust(length)
        assert len(text) == length  # both are the shortest JSON of the same
        file.seek(8)
        file.write(text)
