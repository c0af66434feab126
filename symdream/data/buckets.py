"""Aspect-ratio buckets, and which part of a photo fills its bucket.

A bucket is a picture size whose sides are multiples of a step and whose area is at most resolution². A photo goes
where scaling it to cover the bucket cuts the least away (as in NovelAI's training, popularised by kohya's sd-scripts).
Sizes are (width, height) in pixels throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from PIL import Image

MAX_ASPECT = 2  # beyond 1 : 2 the base has hardly seen pictures
CROPS = 4  # places that crop = random draws from: bounded, so that their latents can be cached


def bucket_step(resolution: int, vae_factor: int) -> int:
    """Pixels between bucket sides: 64 from 512 px on, less below, always an even number of latent pixels.

    A UNet whose levels halve an odd side pads and cuts it again (diffusers does so by itself), so that small
    bases may have finer buckets than their depth alone would allow: 16 px at 128 px with sprite's factor 4.
    """
    even = 2 * vae_factor
    return max(even, min(64, resolution // 8 // even * even))


def bucket_sizes(resolution: int, step: int) -> list[tuple[int, int]]:
    """For every width the largest height with width · height <= resolution², at most 1 : 2; both orientations."""
    side = resolution // step * step
    found = {(side, side)}
    for width in range(step, MAX_ASPECT * resolution + 1, step):
        height = resolution**2 // width // step * step
        if height and max(width, height) <= MAX_ASPECT * min(width, height):
            found |= {(width, height), (height, width)}
    return sorted(found)


def shapes(resolution: int, vae_factor: int, *, buckets: bool) -> list[tuple[int, int]]:
    """The sizes that photos are cut to: the square alone, or all buckets."""
    return bucket_sizes(resolution, bucket_step(resolution, vae_factor)) if buckets else [(resolution, resolution)]


def kept(photo: tuple[int, int], bucket: tuple[int, int]) -> float:
    """Share of the photo's area that is left when it covers the bucket, in (0, 1]."""
    ratio = (photo[0] * bucket[1]) / (photo[1] * bucket[0])
    return min(ratio, 1 / ratio)


def assign(photo: tuple[int, int], buckets: list[tuple[int, int]]) -> tuple[int, int]:
    """The bucket that keeps most of the photo; of equals the one with more pixels."""
    return max(buckets, key=lambda bucket: (round(kept(photo, bucket), 9), bucket[0] * bucket[1], bucket))


@dataclass(frozen=True)
class Cut:
    """One part of a photo at its training size: `box` (left, top, right, bottom) of `photo` becomes `size`."""

    photo: tuple[int, int]
    box: tuple[int, int, int, int]
    size: tuple[int, int]
    flip: bool = False

    def apply(self, image: Image.Image) -> Image.Image:
        """The pixels (Lanczos), mirrored left to right if `flip`."""
        part = image.crop(self.box).resize(self.size, Image.Resampling.LANCZOS)
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if self.flip else part

    @cached_property
    def top_left(self) -> tuple[int, int]:
        """(top, left) of the cut in pixels of the photo as scaled for training, mirrored with it."""
        left, top, right, bottom = self.box
        scale = self.size[0] / (right - left)
        return round(top * scale), round((self.photo[0] - right if self.flip else left) * scale)


def cuts(photo: tuple[int, int], size: tuple[int, int], crop: str, *, flip: bool = False) -> list[list[Cut]]:
    """The cuts that a sample of the photo may show: one list for each place, of [plain] or [plain, mirrored].

    The largest box of the shape of `size` fits the photo's width or height and slides along the other side.
    crop "center": in the middle. "random": CROPS evenly spaced places from end to end, fewer where they coincide.
    """
    width, height = photo
    if width * size[1] >= height * size[0]:
        box_width, box_height = max(1, round(height * size[0] / size[1])), height
    else:
        box_width, box_height = width, max(1, round(width * size[1] / size[0]))
    places = [0.5] if crop == "center" else [i / (CROPS - 1) for i in range(CROPS)]
    boxes = []
    for place in places:
        left, top = int((width - box_width) * place), int((height - box_height) * place)
        boxes.append((left, top, left + box_width, top + box_height))
    sides = (False, True) if flip else (False,)
    return [[Cut(photo, box, size, side) for side in sides] for box in dict.fromkeys(boxes)]
