"""Scores of the pictures of one subject: all that the report tells of them, from embeddings kept by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from symdream.bench.cells import digest
from symdream.bench.cutout import cut_out, on_gray
from symdream.bench.grid import TRIGGER
from symdream.bench.subjects import BenchSubject
from symdream.data.captions import caption_of, fill
from symdream.data.images import find_images, read_image
from symdream.data.masks import masks_in, read_mask, read_mask_file
from symdream.metrics.cache import EmbeddingCache, image_hash
from symdream.metrics.encoders import ClipEncoder, DinoEncoder
from symdream.metrics.evaluate import SCORES, score_images
from symdream.metrics.scores import cosines, diversity, drift, paired_cosines

EXTRAS = ("dino_foreground", "dino_matched")


@dataclass
class Judge:
    """The encoders, loaded once, and every embedding they have made."""

    dino: DinoEncoder
    clip: ClipEncoder
    cache: EmbeddingCache

    def of(self, subject: BenchSubject) -> SubjectJudge:
        return SubjectJudge(self, subject)


@dataclass
class SubjectJudge:
    """Scores pictures against the photos of one subject."""

    judge: Judge
    subject: BenchSubject

    @cached_property
    def photos(self) -> dict[str, Image.Image]:
        return self.subject.photos()

    @cached_property
    def photos_hash(self) -> str:
        """Over the pixels of the photos and the class noun: what scores of this subject are about."""
        return digest([self.subject.class_noun, *map(image_hash, self.photos.values())])

    @cached_property
    def beside_hash(self) -> str | None:
        """Over what lies beside the photos and decides scores too: captions, masks and ideal pictures; None where
        there is nothing.

        Raises: RequestError if such a file cannot be read, or a photo has two captions or masks.
        """
        subject = self.subject
        photos = find_images(subject.folder)
        captions = {p.name: caption_of(p, "", trigger=TRIGGER, class_noun=subject.class_noun) for p in photos}
        files = masks_in(subject.folder)
        # What training weighs the loss by, and what the scores of the foreground are cut out by: as both read them.
        weights = {photo.name: mask for photo in photos if (mask := read_mask(photo, files)) is not None}
        beside = [
            {name: text for name, text in captions.items() if text},
            *({name: image_hash(mask) for name, mask in found.items()} for found in (weights, self.masks)),
            {prompt: image_hash(read_image(ideal)) for prompt, ideal in subject.ideals.items()},
        ]
        return digest(beside) if any(beside) else None

    @cached_property
    def masks(self) -> dict[str, Image.Image]:
        """What of a photo is its subject, by its file's name: L, of its size; of those photos for which it is known.

        Raises: RequestError if one cannot be read, or is of another shape than its photo.
        """
        files = {name: self.subject.masks.get(Path(name).stem) for name in self.photos}
        return {name: read_mask_file(file, self.photos[name].size) for name, file in files.items() if file}

    @property
    def has_masks(self) -> bool:
        """Whether every photo has a true mask."""
        return self.masks.keys() == self.photos.keys()

    @cached_property
    def cutouts(self) -> list[Image.Image]:
        """The photos' subjects on gray, by their true masks; none where a photo has no mask."""
        return [on_gray(photo, self.masks[name]) for name, photo in self.photos.items()] if self.has_masks else []

    def text(self, prompt: str) -> str:
        """The prompt as it is drawn."""
        return fill(prompt, trigger=TRIGGER, class_noun=self.subject.class_noun)

    def rows(self, images: Sequence[Image.Image], prompts: Sequence[str], seeds: Sequence[int | None]) -> list[dict]:
        """One dict an image: prompt, image_seed, its scores, its nearest photo, and whether it looks like a copy.

        dino_foreground: DINO of what stands out from the border of the picture (symdream.bench.cutout) against the
        photos' subjects, all on gray; dino_matched: DINO against the picture of the true subject composed as the same
        prompt asks. None where there are no masks, no such picture, or nothing stands out.
        """
        judge = self.judge
        result = score_images(
            images,
            [self.text(prompt) for prompt in prompts],
            list(self.photos.values()),
            dino=judge.dino,
            clip=judge.clip,
            trigger=TRIGGER,
            cache=judge.cache,
        )
        threshold = result["memorisation"]["threshold"]
        names = list(self.photos)
        foreground, matched = self._foreground(images), self._matched(images, prompts)
        return [
            {
                "prompt": prompt,
                "image_seed": seed,
                **{name: entry[name] for name in SCORES},
                "nearest_photo": names[entry["nearest_reference"]],
                "memorised": None if threshold is None else int(entry["nearest_cosine"] > threshold),
                "nearest_cosine": entry["nearest_cosine"],
                "dino_foreground": foreground[i],
                "dino_matched": matched[i],
            }
            for i, (prompt, seed, entry) in enumerate(zip(prompts, seeds, result["images"], strict=True))
        ]

    def real(self) -> dict[str, Any]:
        """The photos among themselves, without self-pairs."""
        photos = list(self.photos.values())
        scored = score_images(
            photos,
            [self.text("{subject}")] * len(photos),
            photos,
            dino=self.judge.dino,
            clip=self.judge.clip,
            trigger=TRIGGER,
            cache=self.judge.cache,
        )
        return scored["real_vs_real"]

    def diversity(self, images: Sequence[Image.Image]) -> float | None:
        """Mean 1 - cosine (DINO) among the pictures; None for a single one."""
        return diversity(self.judge.cache.images(self.judge.dino, images)) if len(images) > 1 else None

    def unchanged(self, before: Sequence[Image.Image], after: Sequence[Image.Image]) -> float | None:
        """Mean cosine (DINO) of the base's and the adapted pictures of the class: 1 where nothing has moved."""
        if not before:
            return None
        images = self.judge.cache.images
        return 1 - drift(images(self.judge.dino, before), images(self.judge.dino, after))

    def _foreground(self, images: Sequence[Image.Image]) -> list[float | None]:
        if not self.cutouts:
            return [None] * len(images)
        masks = [cut_out(image) for image in images]
        seen = [on_gray(image, mask) for image, mask in zip(images, masks, strict=True) if mask is not None]
        if not seen:
            return [None] * len(images)
        embed = self.judge.cache.images
        means = iter(cosines(embed(self.judge.dino, seen), embed(self.judge.dino, self.cutouts)).mean(1).tolist())
        return [None if mask is None else next(means) for mask in masks]

    def _matched(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> list[float | None]:
        ideals = self.subject.ideals
        pairs = [(image, read_image(ideals[p])) for image, p in zip(images, prompts, strict=True) if p in ideals]
        if not pairs:
            return [None] * len(images)
        embed = self.judge.cache.images
        drawn, true = (embed(self.judge.dino, side) for side in zip(*pairs, strict=True))
        values = iter(paired_cosines(drawn, true).tolist())
        return [next(values) if prompt in ideals else None for prompt in prompts]


def mean_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """The means over pictures; `memorised` is the share of those above the threshold."""
    names = (*SCORES, *EXTRAS, "memorised")
    found = {name: [row[name] for row in rows if row[name] is not None] for name in names}
    return {name: fmean(values) if values else None for name, values in found.items()}
