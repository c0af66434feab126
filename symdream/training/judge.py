"""Scores a base with its adapter as it is now, on prompts and seeds that no report uses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from PIL import Image

from symdream.config import OneOfSubjects, TrainConfig
from symdream.data.captions import fill
from symdream.data.photos import Photos
from symdream.diffusion.adapters import Disabled
from symdream.diffusion.base import Base
from symdream.diffusion.parking import move, park
from symdream.diffusion.sampling import sample
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import load_encoders
from symdream.metrics.evaluate import score_images, without_trigger
from symdream.metrics.prompts import read_prompts, selection_prompts
from symdream.metrics.scores import cosines, real_vs_real
from symdream.metrics.suitability import warn_if_unsuitable
from symdream.training.criterion import Scale, Scores

# Far from 0, 1, 2, …, with which evaluations, samples and people begin.
FIRST_SEED = 7_700_000
PICTURES = 8  # of each subject, at least: fewer, and chance decides; each takes seconds on a CPU


@dataclass(frozen=True)
class Case:
    """What one subject is asked for, picture by picture, and its photos."""

    trigger: str
    texts: list[str]
    seeds: list[int]
    photos: list[Image.Image]


class Judge:
    """DINO and CLIP-T of pictures drawn now; with several subjects the mean over them.

    Between its looks the encoders wait in the computer's memory. On the main process only.
    Raises: RequestError if an encoder cannot be had, or the prompts beside the photos cannot be read.
    """

    def __init__(self, base: Base, config: TrainConfig, photos: Photos):
        self.base = base
        self.dino, self.clip = load_encoders(base.embedded, config.selection.dino, config.selection.clip)
        self.cache = EmbeddingCache()
        self.cases = [
            case(subject, [photo.image for photo in photos.photos if photo.subject == place], base.embedded)
            for place, subject in enumerate(config.learned)
        ]
        warn_if_unsuitable([photo.image for photo in photos.photos], self.dino, self.clip)

    def protocol(self) -> dict[str, Any]:
        """What the scores depend on beside the adapter, ready for JSON."""
        return {
            "prompts": [one.texts for one in self.cases],
            "seeds": [one.seeds for one in self.cases],
            "sampling": dict(self.base.defaults),
            "encoders": {"dino": self.dino.provenance, "clip": self.clip.provenance},
        }

    def scale(self) -> Scale:
        """The base's scores, drawn with the adapter off, and the photos' own."""
        with Disabled(self.base):
            base = self.scores()
        return Scale(base, Scores(fmean(map(self._alike, self.cases)), fmean(map(self._unasked, self.cases))))

    def scores(self) -> Scores:
        """Of the adapter as it is, at the weight that is set."""
        found = []
        for one in self.cases:
            images = sample(self.base, one.texts, one.seeds)
            move([self.dino.model, self.clip.model], self.base.device)
            try:
                found.append(
                    score_images(
                        images,
                        one.texts,
                        one.photos,
                        dino=self.dino,
                        clip=self.clip,
                        trigger=one.trigger,
                        cache=self.cache,
                    )
                )
            finally:
                park([self.dino.model, self.clip.model])
        return Scores(fmean(row["dino"] for row in found), fmean(row["clip_t"] for row in found))

    def _alike(self, one: Case) -> float:
        """DINO of the photos among themselves; 1 for a single one, which is alike only to itself."""
        embedded = self.cache.images(self.dino, one.photos)
        return real_vs_real(embedded) if len(one.photos) > 1 else 1.0

    def _unasked(self, one: Case) -> float:
        """CLIP-T of an adapter that knows its photos and nothing else: all photos against all prompts."""
        texts = self.clip.texts([without_trigger(text, one.trigger) for text in one.texts])
        return float(cosines(self.cache.images(self.clip, one.photos), texts).mean())


def case(subject: OneOfSubjects, photos: Sequence[Image.Image], embedded: bool) -> Case:
    """At least PICTURES pictures: every prompt the same number of times, no seed twice."""
    beside = subject.images / "prompts.toml"
    prompts = selection_prompts(read_prompts(beside) if beside.is_file() else None, embedded).prompts
    texts = [fill(prompt.text, trigger=subject.trigger, class_noun=subject.class_noun) for prompt in prompts]
    texts *= -(-PICTURES // len(texts))
    return Case(subject.trigger, texts, [FIRST_SEED + i for i in range(len(texts))], list(photos))
