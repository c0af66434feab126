"""What is expensive to make and never changes, kept by content: latents, text embeddings, class images.

    CACHE/latents/KEY.safetensors     mean and deviation of one crop of one photo
    CACHE/texts/KEY.safetensors       one caption as the text encoders read it
    CACHE/class-images/KEY/NNNN.png   what the base draws for a class prompt

KEY is a hash of everything that the content follows from, so a stale entry has another name and cannot be found.
An entry appears by one rename, so processes that write at once do no harm, and carries a checksum, so a damaged
one is made again. The folder may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from symdream.diffusion.hashes import json_hash
from symdream.tensor_file import save_tensors
from symdream.ui import say

FORMAT = 1  # raise it when the content changes for the same key


def content_key(**parts: Any) -> str:
    """sha256 (hex) over named parts of plain JSON types."""
    return json_hash({"format": FORMAT, **parts})


def tensors_hash(tensors: dict[str, torch.Tensor]) -> str:
    """sha256 (hex) over names, dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class Store:
    """Tensors on disk under `folder`, by kind and key; counts what was found and what was made."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.found: Counter[str] = Counter()
        self.made: Counter[str] = Counter()
        self._writes = True

    def fetch(self, kind: str, key: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The stored tensors (on the CPU), or those that `make` gives, which are then stored."""
        path = self.folder / kind / f"{key}.safetensors"
        tensors = self._read(path)
        if tensors is not None:
            self.found[kind] += 1
            return tensors
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
        self.made[kind] += 1
        self._write(path, tensors)
        return tensors

    def counts(self, kind: str) -> str:
        """ "5 from the cache, 2 made": what `fetch` did so far for this kind."""
        counts = {"from the cache": self.found[kind], "made": self.made[kind]}
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"

    def _read(self, path: Path) -> dict[str, torch.Tensor] | None:
        if not os.path.isfile(path):  # and not Path.is_file, which raises where a folder may not be entered
            return None
        if not os.access(path, os.R_OK):
            say(f"note: {path} in the cache may not be read by this user; it is made again.")
            return None
        try:
            with safe_open(path, "pt") as opened:
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                expected = (opened.metadata() or {}).get("sha256")
        except (SafetensorError, OSError) as error:
            say(f"note: {path} in the cache is damaged ({error}); it is made again.")
            return None
        if expected != tensors_hash(tensors):
            say(f"note: {path} in the cache does not match its checksum; it is made again.")
            return None
        return tensors

    def _write(self, path: Path, tensors: dict[str, torch.Tensor]) -> None:
        if not self._writes:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_tensors(tensors, temporary, {"sha256": tensors_hash(tensors)})
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            # A cache is a convenience: training goes on, and the next start encodes again.
            self._writes = False
            say(
                f"note: the cache {self.folder} cannot be written ({error}); nothing more is kept in it "
                "(SYMDREAM_CACHE names another)."
            )
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
