"""Class images for prior preservation (DreamBooth, arXiv:2208.12242, section 3.2): what the class looks like to the
base, so that learning the subject does not change it. Given in a folder, or drawn once by the base and kept.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.data.images import find_images, read_header, read_image
from symdream.data.store import content_key
from symdream.diffusion.adapters import adapter_layers
from symdream.diffusion.base import Base
from symdream.diffusion.png import intact, save_png
from symdream.diffusion.sampling import drawn_by, sample
from symdream.errors import WorkError
from symdream.progress import Progress
from symdream.ui import say

KIND = "class-images"
# Far from the seeds that people and scores use, so that drift is not measured on pictures that were trained on.
FIRST_SEED = 1_000_000
BATCH = 4


@dataclass(frozen=True)
class ClassImage:
    """A picture that is read only when its latents are not cached; `size` is (width, height) as read, `converted`
    whether its colours are, `sha256` of the file's bytes."""

    path: Path
    size: tuple[int, int]
    converted: bool
    sha256: str

    @classmethod
    def of(cls, path: Path) -> ClassImage:
        """Raises: RequestError if it is no image."""
        return cls(path, *read_header(path), hashlib.sha256(path.read_bytes()).hexdigest())

    def read(self) -> Image.Image:
        return read_image(self.path)


def from_folder(folder: Path) -> list[ClassImage]:
    """The user's class images. Raises: RequestError if there are none, or one cannot be read."""
    return [ClassImage.of(path) for path in find_images(folder)]


def from_base(
    base: Base,
    prompt: str,
    count: int,
    resolution: int,
    cache: Path,
    *,
    kind: str = KIND,
    first_seed: int = FIRST_SEED,
    batch: int = BATCH,
    quiet: bool = False,
) -> list[ClassImage]:
    """`count` square pictures of `prompt` from seeds `first_seed` on, drawn by the base where the cache lacks them.

    Every batch is kept as soon as it is done, so an interrupted making loses little. Batches begin at multiples of
    their size and are drawn whole: a picture that is drawn again comes out the same to the last bit, which it
    would not beside others. No safety checker looks at them (it would paint some black).
    Raises: ValueError if an adapter of the base is on; WorkError if they cannot be written.
    """
    layers = [layer for module in base.components().values() for layer in adapter_layers(module)]
    if any(layer.active_adapters and not layer.disable_adapters for layer in layers):
        raise ValueError("the base carries an adapter that is on: its pictures would be kept as the base's own")
    folder = cache / kind / content_key(**drawn_with(base, prompt, resolution, first_seed, batch))[:32]
    files = [folder / f"{number:05d}.png" for number in range(-(-count // batch) * batch)]
    missing = [number for number in range(count) if not intact(files[number])]
    if not quiet:
        there = f"{count - len(missing)} from the cache"
        say(f'Pictures of "{prompt}": {there}, {len(missing)} to draw ({folder})')
    starts = sorted({number // batch * batch for number in missing})
    with Progress("pictures drawn", len(starts) * batch, quiet=quiet or not starts) as progress:
        for done, start in enumerate(starts, 1):
            seeds = [first_seed + number for number in range(start, start + batch)]
            images = sample(base, [prompt] * batch, seeds, width=resolution, height=resolution, batch_size=batch)
            for seed, image in zip(seeds, images, strict=True):
                _write(image, files[seed - first_seed], png_settings(base, prompt, resolution, seed))
            progress.update(done * batch)
    return [ClassImage.of(file) for file in files[:count]]


def drawn_with(base: Base, prompt: str, resolution: int, first_seed: int, batch: int) -> dict[str, Any]:
    """All that the pictures follow from: what their folder's name is a hash of."""
    return {
        **drawn_by(base),
        "prompt": prompt,
        "first_seed": first_seed,
        "batch": batch,
        "resolution": resolution,
    }


def png_settings(base: Base, prompt: str, resolution: int, seed: int) -> Mapping[str, Any]:
    return {
        "prompt": prompt, "negative_prompt": "", "seed": seed, "base": base.identity, "adapter": None,
        "sampler": "base", "width": resolution, "height": resolution, **base.defaults,
    }  # fmt: skip


def _write(image: Image.Image, file: Path, settings: Mapping[str, Any]) -> None:
    temporary = file.with_name(f".{file.stem}.{os.getpid()}.tmp.png")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_png(image, temporary, settings)
        os.replace(temporary, file)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise WorkError(
            f"Could not keep the class image {file}: {error.strerror or error}.",
            fix="make room, or choose another place with --cache-dir",
        ) from error
