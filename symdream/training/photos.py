"""The photos and captions of a run, read once, with the hashes that tell them apart later."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from symdream.config import TrainConfig
from symdream.data.captions import caption_of
from symdream.data.images import find_images, read_image


@dataclass
class Photos:
    """Images by path, their captions in the same order, and one hash over all of it."""

    images: dict[Path, Image.Image]
    captions: list[str]
    hash: str


def read_photos(config: TrainConfig) -> Photos:
    """Read the photos of a resolved config.

    Raises: RequestError if a photo or caption cannot be read.
    """
    subject = config.subject
    paths = find_images(subject.images)
    words = {"trigger": subject.trigger, "class_noun": subject.class_noun}
    captions = [caption_of(path, subject.template, **words) for path in paths]
    digest = hashlib.sha256()
    for path, caption in zip(paths, captions, strict=True):
        digest.update(hashlib.sha256(path.read_bytes()).digest() + caption.encode() + b"\0")
    return Photos({path: read_image(path) for path in paths}, captions, digest.hexdigest())
