"""What an adapter does to pictures that do not ask for its subject: is "a bird" still any bird, or the owl now?

The class pictures are drawn by the prompts of the evaluation with the class noun alone ("a bird in the snow"), by the
base and by the adapted model from the same seeds. `drift` is how far they have moved (symdream.metrics.scores, as
`symdream compare` measures it); PRES (DreamBooth, arXiv:2208.12242) how much they look like the subject's photos.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from PIL import Image

from symdream.config import Subject
from symdream.data.captions import fill
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import DinoEncoder
from symdream.metrics.prompts import Prompt
from symdream.metrics.scores import cosines, drift, paired_cosines, subject_fidelity

PICTURES = 4  # one batch: a sprite picture takes seconds on two CPU cores, and each is drawn twice


def class_pairs(subject: Subject, prompts: Sequence[Prompt], seed: int, count: int) -> list[tuple[str, int]]:
    """`count` pairs (prompt of the class alone, seed): all prompts from `seed`, then from seed + 1, and so on."""
    texts = [without_subject(prompt.text, subject) for prompt in prompts]
    return [(texts[i % len(texts)], seed + i // len(texts)) for i in range(count)]


def without_subject(prompt: str, subject: Subject) -> str:
    """The prompt for any of the class: "a {subject} here", "a sks bird here", "a sks here" -> "a bird here"."""
    noun = subject.class_noun
    text = fill(prompt, trigger="", class_noun=noun)
    words = rf"(?<!\w){re.escape(subject.trigger)}(?:\s+{re.escape(noun)})?(?!\w)"
    return re.sub(words, lambda _: noun, text, flags=re.IGNORECASE)


def class_scores(
    before: Sequence[Image.Image],
    after: Sequence[Image.Image],
    pairs: Sequence[tuple[str, int]],
    references: Sequence[Image.Image],
    *,
    dino: DinoEncoder,
    cache: EmbeddingCache | None = None,
) -> dict[str, Any]:
    """Drift and PRES of N class pictures, i of both drawn by pairs[i] = (text, seed), against M photos of the subject.

    Returns a JSON-ready dict:
      drift     (1 / N) sum_i (1 - cos(before_i, after_i)), in [0, 2]: 0 where nothing has changed
      pres      before, after: (1 / NM) sum_ij cos(picture_i, photo_j), in [-1, 1]: higher is nearer to the subject
      images    one entry a picture: text, seed, drift, pres_before, pres_after
      pairs     how many cosines each mean is over: N, N x M
      encoder   DINO's provenance
    """
    cache = cache or EmbeddingCache()
    base, adapted, photos = (cache.images(dino, images) for images in (before, after, references))
    columns = zip(
        pairs,
        (1 - paired_cosines(base, adapted)).tolist(),
        cosines(base, photos).mean(1).tolist(),
        cosines(adapted, photos).mean(1).tolist(),
        strict=True,
    )
    return {
        "drift": drift(base, adapted),
        "pres": {"before": subject_fidelity(base, photos), "after": subject_fidelity(adapted, photos)},
        "images": [
            {"text": text, "seed": seed, "drift": moved, "pres_before": old, "pres_after": new}
            for (text, seed), moved, old, new in columns
        ],
        "pairs": {"drift": len(pairs), "pres": len(pairs) * len(references)},
        "encoder": dino.provenance,
    }
