"""A look at photos before anything is trained on them: what the trainer will see, and what may go wrong.

The crop is the trainer's own (symdream.data.buckets). What cannot be read is told and must go before training starts;
everything else is a note, and keeps nobody from it.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from symdream.data.buckets import cuts, kept
from symdream.data.images import SUFFIXES, heif_is_readable, photo_of_mask, read_image
from symdream.errors import RequestError
from symdream.training.photographs import photo_warning
from symdream_apps.upload import check_image
from symdream_apps.wording import brief

USUAL = (3, 6)
MOST = 30  # that are trained on; the trainer takes more, but a browser full of previews gets no better by them
CUT_AWAY = 0.25  # share of a photo outside of its square crop that is worth a note

HASH_SIDE = 12  # of the lowest frequencies; all but the constant one give a bit each: 143 bits
SAME_PICTURE = 28  # bits
BLURRED = (1.9, 0.01)  # width of the sharpest edges in pixels, and as a share of the crop's side: the larger counts


@dataclass(frozen=True)
class Photo:
    """One readable photo: the file, its name for people, its size, the square that is trained on, and notes."""

    path: Path
    name: str
    size: tuple[int, int]
    crop: Image.Image
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """What a look found: readable photos, sentences about those that are not, notes about the set, and the warning
    for photographs that are given to sprite."""

    photos: list[Photo]
    refused: list[str]
    notes: list[str]
    photographs: str | None


def check(paths: Sequence[Path], side: int, *, sprite: bool) -> Report:
    """Look at the files `paths` as the photos of one subject, for training a base whose pictures have `side` pixels a
    side; `sprite`: whether it is sprite, which draws toys."""
    photos, images, refused = [], [], []
    for path in paths:
        if len(photos) == MOST:
            break
        name = Path(path).name
        try:
            image = read_image(check_image(path))
        except RequestError as error:
            refused.append(brief(error, Path(path).parent))
            continue
        [[cut]] = cuts(image.size, (side, side), "center")
        crop = cut.apply(image)
        photos.append(Photo(Path(path), name, image.size, crop, _notes(image, crop)))
        images.append(image)
    hashes = [perceptual_hash(image) for image in images]
    for i, photo in enumerate(photos):
        same = [one.name for one, known in zip(photos[:i], hashes[:i], strict=True) if near(known, hashes[i])]
        if same:
            more = len(same) - 1
            others = f" and {more} other{'s' if more > 1 else ''}" if more else ""
            photo.notes.append(f"almost the same picture as {same[0]}{others}: it teaches nothing new")
    photographs = photo_warning(images) if sprite else None
    left = len(paths) - len(photos) - len(refused)
    return Report(photos, refused, _about_the_set(photos, paths, left), photographs)


def _notes(image: Image.Image, crop: Image.Image) -> list[str]:
    notes, side = [], crop.width
    if min(image.size) < side:
        notes.append(f"small: scaled up {side / min(image.size):.1f} times to {side} pixels")
    lost = 1 - kept(image.size, crop.size)
    if lost > CUT_AWAY:
        notes.append(f"{lost:.0%} of it is cut away: is the subject whole in the square?")
    if is_blurred(crop):
        notes.append("blurred: its sharpest edges are soft")
    return notes


def _about_the_set(photos: Sequence[Photo], paths: Sequence[Path], left: int) -> list[str]:
    """`left`: how many files come after the last one that was looked at."""
    count = len(photos)
    if not paths:
        return []
    if not photos:
        return ["None of these files can be used."]
    if count < USUAL[0]:
        counted = "1 photo" if count == 1 else f"{count} photos"
        return [f"{counted}: with fewer than {USUAL[0]} it learns the picture, not the subject."]
    if count > USUAL[1]:
        more = f"; the other {left} {'is' if left == 1 else 'are'} left out" if left else ""
        return [f"{count} photos{more}: {USUAL[0]} to {USUAL[1]} are usual; more need more steps."]
    return []


def perceptual_hash(image: Image.Image) -> np.ndarray:
    """143 booleans: which of the lowest 12 × 12 frequencies of the picture, 32 × 32 and gray, exceed their median.

    The discrete cosine transform as two matrix products (the constant term is left out: brightness does not count).
    Saving a picture again at half its size changes at most 6 bits of 143 in 236 of 238 pictures, and two pictures of
    one subject differ in 36 or more (all sample subjects, all of DreamBooth's data set). The line is drawn at 28.
    """
    side = 32
    grid = np.arange(side)
    cosines = np.cos(np.pi / side * (grid + 0.5)[None, :] * grid[:HASH_SIDE, None])
    gray = np.asarray(image.convert("L").resize((side, side), Image.Resampling.LANCZOS), dtype=float)
    low = (cosines @ gray @ cosines.T).ravel()[1:]
    return low > np.median(low)


def near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two hashes are of the same picture, maybe scaled, saved again or cut by a little."""
    return int(np.count_nonzero(one != other)) <= SAME_PICTURE


def edge_width(image: Image.Image) -> float:
    """About how many pixels wide the sharpest edges are: the σ of a Gaussian that would blur an ideal edge so.

        σ = contrast / (√(2π) · steepest),   contrast = 1st to 99th percentile of gray, steepest = 99th of the gradient

    (the slope of a step of height h under a Gaussian is at most h / (σ √(2π))).
    """
    gray = np.asarray(image.convert("L"), dtype=float)
    x = (gray[1:-1, 2:] - gray[1:-1, :-2]) / 2
    y = (gray[2:, 1:-1] - gray[:-2, 1:-1]) / 2
    low, high = np.percentile(gray, (1, 99))
    steepest = np.percentile(np.hypot(x, y), 99)
    return float((high - low) / (np.sqrt(2 * np.pi) * max(steepest, 1e-6)))


def is_blurred(crop: Image.Image) -> bool:
    """Whether even the sharpest edges of a square picture are soft.

    Measured: none of the sample pictures (128 px: σ up to 1.4 px) and of DreamBooth's photographs (512 px: up to
    4.1 px) is called blurred; once they are blurred by 2 and 5 px (Gaussian), all are.
    """
    return edge_width(crop) > max(BLURRED[0], BLURRED[1] * crop.width)


def copy_photos(photos: Sequence[Path], captions: Sequence[str], folder: Path) -> None:
    """Copy the photos into `folder` under names that training finds, each with its caption beside it where it has one.

    Raises: OSError on a full disk.
    """
    for number, (path, caption) in enumerate(zip(photos, captions, strict=True)):
        stem = "".join(c if c.isalnum() or c in "-_" else "-" for c in path.stem)[:60]
        # A name that ends so would make a mask of it.
        photo = photo_of_mask(stem)
        stem = (stem if photo is None else photo) or "photo"
        target = folder / f"{number:02d}-{stem}{_ending(path)}"
        shutil.copyfile(path, target)
        if caption.strip():
            target.with_suffix(".txt").write_text(caption.strip() + "\n", encoding="utf-8")


def _ending(path: Path) -> str:
    """The name's own ending where training goes by it, else (.jpg_large, none) the one of what the file holds."""
    if (suffix := path.suffix.lower()) in SUFFIXES:
        return suffix
    heif_is_readable()
    with Image.open(path) as image:
        # Some cameras put a second picture into a JPEG; Pillow has a name of its own for it.
        return ".jpg" if image.format == "MPO" else f".{image.format.lower()}"
