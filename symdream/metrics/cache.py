"""Embeddings by image content, so that the same picture is encoded once: in memory, and on disk if asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from symdream.errors import WorkError
from symdream.metrics.encoders import Encoder
from symdream.tensor_file import save_tensors
from symdream.ui import say


def image_hash(image: Image.Image) -> str:
    """sha256 (hex) over mode, size and pixels: equal pictures hash alike whatever file they came from."""
    digest = hashlib.sha256(f"{image.mode} {image.size}".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


class EmbeddingCache:
    """`images(encoder, pictures)` as `encoder.images(pictures)`, encoding only what was not seen before.

    With a `folder`, embeddings outlive the process in FOLDER/FINGERPRINT.safetensors, one file for each encoder
    (its fingerprint covers weights and preprocessing, so nothing stale is ever read).
    """

    def __init__(self, folder: Path | None = None):
        self.folder = None if folder is None else Path(folder)
        self._known: dict[str, dict[str, torch.Tensor]] = {}

    def images(self, encoder: Encoder, images: Sequence[Image.Image]) -> torch.Tensor:
        """[N, D] float32, rows of length 1."""
        known = self._of(encoder)
        keys = [image_hash(image) for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in known}
        if new:
            known.update(zip(new, encoder.images(list(new.values())), strict=True))
            self._write(encoder)
        return torch.stack([known[key] for key in keys]) if keys else torch.empty(0, encoder.dim)

    def _path(self, encoder: Encoder) -> Path:
        return self.folder / f"{encoder.fingerprint}.safetensors"

    def _of(self, encoder: Encoder) -> dict[str, torch.Tensor]:
        if encoder.fingerprint not in self._known:
            self._known[encoder.fingerprint] = self._read(encoder)
        return self._known[encoder.fingerprint]

    def _read(self, encoder: Encoder) -> dict[str, torch.Tensor]:
        if self.folder is None or not os.path.isfile(self._path(encoder)):
            return {}
        try:
            return load_file(self._path(encoder))
        except (SafetensorError, OSError) as error:
            say(f"note: cached embeddings in {self._path(encoder)} are damaged ({error}); encoding again.")
            return {}

    def _write(self, encoder: Encoder) -> None:
        if self.folder is None:
            return
        path = self._path(encoder)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = {key: row.clone() for key, row in self._known[encoder.fingerprint].items()}
            save_tensors(rows, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise WorkError(
                f"Could not write cached embeddings: {error}.", where=str(path), fix="make room, or leave out --cache"
            ) from error
