"""The photos and captions of a run, read once, with the hashes that tell them apart later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from symdream.data import class_images
from symdream.data.cache_folder import cache_folder
from symdream.data.captions import caption_of, fill
from symdream.data.class_images import ClassImage
from symdream.data.images import find_images, read_header, read_image
from symdream.data.masks import mask_file, masks_in, read_mask
from symdream.diffusion.base import Base

if TYPE_CHECKING:  # a bare GPU machine may lack pydantic, and the benchmarks need only what is below
    from symdream.config import TrainConfig


@dataclass(frozen=True)
class Photo:
    """One photo of one subject; `subject` is its place in the config, `sha256` is of the file's bytes, `converted`
    whether they hold other colours than sRGB, in which `image` is."""

    path: Path
    image: Image.Image
    caption: str
    trigger: str
    subject: int
    repeats: int
    sha256: str
    converted: bool
    mask: Image.Image | None


@dataclass
class Photos:
    """All photos of a run, subject by subject, and the class images of each class prompt."""

    photos: list[Photo]
    hash: str  # over the bytes of photos and masks, and the captions
    class_prompts: list[str] = field(default_factory=list)  # of each subject; none without prior preservation
    class_images: dict[str, list[ClassImage]] = field(default_factory=dict)
    class_recipe: dict[str, Any] | None = None  # what class images that the base draws follow from, beside the base

    @property
    def files(self) -> list[dict[str, str]]:
        """Of each subject the names of its photos, and the sha256 of each."""
        return [
            {photo.path.name: photo.sha256 for photo in photos}
            for _, photos in groupby(self.photos, key=lambda photo: photo.subject)
        ]

    @property
    def class_hash(self) -> str | None:
        """One hash over the class images, None without prior preservation."""
        if not self.class_images:
            return None
        digest = hashlib.sha256()
        for prompt, images in self.class_images.items():
            digest.update(prompt.encode() + b"\0" + "".join(image.sha256 for image in images).encode())
        return digest.hexdigest()


def read_photos(config: TrainConfig) -> Photos:
    """Read the photos of a resolved config.

    Raises: RequestError if a photo, mask or caption cannot be read.
    """
    photos = []
    digest = hashlib.sha256()
    for place, subject in enumerate(config.learned):
        words = {"trigger": subject.trigger, "class_noun": subject.class_noun}
        found = find_images(subject.images)
        masks = masks_in(subject.images)
        for path in found:
            caption = caption_of(path, subject.template, **words)
            sha256 = hashlib.sha256(path.read_bytes())
            digest.update(sha256.digest() + caption.encode() + b"\0")
            mask = None
            if config.data.mask_strength:
                mask = read_mask(path, masks)
                if beside := mask_file(path, masks):
                    digest.update(hashlib.sha256(beside.read_bytes()).digest())
            image = read_image(path)
            repeats = config.subjects[place].repeats if config.subjects else 1
            photos.append(Photo(
                path, image, caption, subject.trigger, place, repeats, sha256.hexdigest(),
                read_header(path).converted, mask,
            ))  # fmt: skip
    return Photos(photos, digest.hexdigest())


def add_class_images(photos: Photos, config: TrainConfig, base: Base, *, quiet: bool = False) -> None:
    """Find the class images of a run with prior preservation, and let the base draw those that are missing.

    The base must not carry an adapter yet. Raises: RequestError, WorkError.
    """
    prior = config.prior
    if not config.prior.wanted:
        return
    photos.class_prompts = [
        prior.class_prompt or fill(subject.template, trigger="", class_noun=subject.class_noun)
        for subject in config.learned
    ]
    if not prior.class_images:
        photos.class_recipe = {
            "prompts": photos.class_prompts,
            "count": prior.class_count,
            "resolution": config.model.resolution,
        }
    for prompt in dict.fromkeys(photos.class_prompts):
        if prior.class_images:
            photos.class_images[prompt] = class_images.from_folder(prior.class_images)
        else:
            cache = cache_folder(config.data.cache_dir)
            photos.class_images[prompt] = class_images.from_base(
                base, prompt, prior.class_count, config.model.resolution, cache, quiet=quiet
            )
