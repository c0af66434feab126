"""Score a set of images against the subject's photos and their own prompts; every number with its origin."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image

from symdream.errors import RequestError
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import ClipEncoder, DinoEncoder
from symdream.metrics.scores import (
    clip_i,
    clip_t,
    copies,
    cosines,
    dino_score,
    memorisation,
    memorisation_threshold,
    paired_cosines,
    real_vs_real,
)

SCORES = ("dino", "clip_i", "clip_t")


def without_trigger(prompt: str, trigger: str | None) -> str:
    """The prompt as CLIP-T reads it: "a photo of a sks bird" -> "a photo of a bird".

    CLIP never learned the rare token; left in, it would only add noise to the text.
    Raises: RequestError if nothing else is in the prompt.
    """
    if not trigger:
        return prompt
    text = re.sub(rf"(?<!\w){re.escape(trigger)}(?!\w)", " ", prompt, flags=re.IGNORECASE)
    text = " ".join(text.split())
    if not text:
        raise RequestError(
            f'The prompt "{prompt}" holds nothing but the trigger, so CLIP-T has no text to compare with.',
            fix='say what the image shows, such as "a photo of a sks bird"',
        )
    return text


def score_images(
    images: Sequence[Image.Image],
    prompts: Sequence[str],
    references: Sequence[Image.Image],
    *,
    dino: DinoEncoder,
    clip: ClipEncoder,
    trigger: str | None = None,
    cache: EmbeddingCache | None = None,
) -> dict:
    """DINO, CLIP-I and CLIP-T of N images, image i made from prompt i, against M photos of the subject.

    Returns a JSON-ready dict:
      dino, clip_i, clip_t     the means (symdream.metrics.scores)
      images                   one entry an image: its three scores, the text it was compared with, and its nearest
                               photo with DINO's cosine (nearest_reference is an index into `references`)
      pairs                    how many cosines each mean is over: N x M, N x M, N
      real_vs_real             dino and clip_i of the photos among themselves, without self-pairs (null for one photo)
      memorisation             the threshold (closest two photos that are no copies of each other; null if there are
                               none), how many images exceed it, and the pairs of photos that are copies (indices)
      text                     the trigger and that it was left out of CLIP-T's texts
      encoders                 provenance of both

    Raises: RequestError if there are no images or photos, or their number is not that of the prompts.
    """
    if not images or not references:
        raise RequestError(f"Nothing to score: {len(images)} images, {len(references)} reference photos.")
    if len(images) != len(prompts):
        raise RequestError(f"{len(images)} images but {len(prompts)} prompts: each image needs its own.")
    cache = cache or EmbeddingCache()
    texts = [without_trigger(prompt, trigger) for prompt in prompts]
    place = {text: i for i, text in enumerate(dict.fromkeys(texts))}
    text_rows = clip.texts(list(place))[[place[text] for text in texts]]

    generated_dino, reference_dino = cache.images(dino, images), cache.images(dino, references)
    generated_clip, reference_clip = cache.images(clip, images), cache.images(clip, references)
    nearest, nearest_index = memorisation(generated_dino, reference_dino)
    several = len(references) > 1
    threshold = memorisation_threshold(reference_dino) if several else None
    columns = zip(
        cosines(generated_dino, reference_dino).mean(1).tolist(),
        cosines(generated_clip, reference_clip).mean(1).tolist(),
        paired_cosines(generated_clip, text_rows).tolist(),
        texts,
        nearest_index.tolist(),
        nearest.tolist(),
        strict=True,
    )
    names = (*SCORES, "text", "nearest_reference", "nearest_cosine")
    pairs = len(images) * len(references)
    return {
        "dino": dino_score(generated_dino, reference_dino),
        "clip_i": clip_i(generated_clip, reference_clip),
        "clip_t": clip_t(generated_clip, text_rows),
        "images": [dict(zip(names, values, strict=True)) for values in columns],
        "pairs": {"dino": pairs, "clip_i": pairs, "clip_t": len(images)},
        "real_vs_real": {
            "dino": real_vs_real(reference_dino) if several else None,
            "clip_i": real_vs_real(reference_clip) if several else None,
        },
        "memorisation": {
            "threshold": threshold,
            "above": None if threshold is None else sum(value > threshold for value in nearest.tolist()),
            "copies": [list(pair) for pair in copies(reference_dino)],
        },
        "text": {"trigger": trigger or None, "trigger_left_out": bool(trigger)},
        "encoders": {"dino": dino.provenance, "clip": clip.provenance},
    }
