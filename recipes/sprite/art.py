"""The packed art: one safetensors file of WebP pictures, and the sprites that models learn from or are scored on.

bytes    uint8 (N,)      the WebP files one after the other, RGBA of 128 x 128 pixels
ends     int64 (S,)      where each of the S files ends in `bytes`
metadata "sprites"       JSON list of S objects: thing, style, category, licence, source, held_out
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from symdream.errors import RequestError

SIDE = 128  # pixels of a sprite and of a picture


@dataclass(frozen=True)
class Sprite:
    """What is known of one picture. `held_out`: no model may see it in training."""

    thing: str  # the caption's word
    style: str  # the caption's words
    category: str
    licence: str
    source: str  # npm package and version
    held_out: bool


@dataclass
class Art:
    """S sprites: `pixels` uint8 (S, 4, 128, 128), RGBA, not premultiplied."""

    sprites: list[Sprite]
    pixels: Tensor

    def where(self, held_out: bool) -> Art:
        """The sprites that are, or are not, held out."""
        chosen = [i for i, sprite in enumerate(self.sprites) if sprite.held_out is held_out]
        return Art([self.sprites[i] for i in chosen], self.pixels[chosen])

    @property
    def things(self) -> list[str]:
        return sorted({sprite.thing for sprite in self.sprites})


def pack(sprites: Sequence[Sprite], files: Sequence[bytes], path: Path) -> None:
    """Write the packed file: complete or not at all."""
    ends = torch.tensor([len(file) for file in files]).cumsum(0)
    content = torch.from_numpy(np.frombuffer(b"".join(files), dtype=np.uint8).copy())
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = json.dumps([asdict(sprite) for sprite in sprites], separators=(",", ":"))
    save_file({"bytes": content, "ends": ends}, partial, metadata={"sprites": table})
    partial.rename(path)


def read_art(path: Path) -> Art:
    """Raises: RequestError if the file is not there, or is no packed art."""
    try:
        with safe_open(path, "pt") as file:
            sprites = [Sprite(**entry) for entry in json.loads(file.metadata()["sprites"])]
            content, ends = file.get_tensor("bytes").numpy(), file.get_tensor("ends").tolist()
        pictures = [_decode(content[a:b].tobytes()) for a, b in zip([0, *ends], ends, strict=False)]
        return Art(sprites, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous())
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise RequestError(
            f"This is no packed art: {error}.", where=str(path), fix="make it with: python recipes/sprite/data.py"
        ) from error


def _decode(file: bytes) -> np.ndarray:
    """RGBA of 128 x 128: (128, 128, 4) uint8."""
    with Image.open(io.BytesIO(file)) as image:
        return np.array(image.convert("RGBA"))
