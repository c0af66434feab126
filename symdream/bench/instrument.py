"""Is the instrument fit? The AUC with which an encoder tells a subject from others, before anything is scored by it.

    AUC = P(cos of a same-subject pair > cos of an other-subject pair), ties counting half

Backgrounds are swapped, so that they can only mislead: the two pictures of a same-subject pair have different
backgrounds, those of an other-subject pair the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
from PIL import Image

from symdream.bench.cutout import cut_out, overlap
from symdream.metrics.scores import cosines

ENOUGH = 0.9
BACKGROUNDS = ((214, 18, 50), (62, 168, 80), (62, 105, 180), (236, 190, 78), (242, 232, 226), (34, 30, 32))


def auc(same: Sequence[float], other: Sequence[float]) -> float:
    """P(same > other) + P(same = other) / 2, over all pairs of pairs (Mann-Whitney's U over its maximum)."""
    other = np.sort(np.asarray(other))
    below = np.searchsorted(other, same, side="left")
    not_above = np.searchsorted(other, same, side="right")
    return float(np.mean(below + not_above) / 2 / len(other))


def test_instrument(workshop: Any) -> dict[str, Any]:
    """The AUC of both encoders of the grid on all its subjects, and how well pictures are cut out.

    With masks: each photo's subject on flat backgrounds; an other-subject pair are two subjects on the same one, and
    `auc_class` counts pairs of the same class noun alone. Without masks the photos as they are: only subjects of the
    same class are compared, and backgrounds are not swapped, which is said.
    """
    subjects = list(workshop.subjects.values())
    with_masks = all(workshop.judge_of(subject.name).has_masks for subject in subjects)
    pictures = _composed(workshop) if with_masks else _photos(workshop)
    encoders = {"dino": workshop.judge.dino, "clip_i": workshop.judge.clip}
    found: dict[str, Any] = {}
    for name, encoder in encoders.items():
        embedded = workshop.judge.cache.images(encoder, [p[3] for p in pictures])
        found[name] = _test([p[:3] for p in pictures], cosines(embedded, embedded).numpy(), workshop, with_masks)
    found["backgrounds_swapped"] = with_masks
    found["cutout_iou"] = _cutout_iou(workshop) if with_masks else None
    return found


def _test(labels: list[tuple[str, int, int]], cos: np.ndarray, workshop: Any, with_masks: bool) -> dict[str, Any]:
    """labels: (subject, photo, background) of each picture; cos (N, N)."""
    nouns = {name: subject.class_noun for name, subject in workshop.subjects.items()}
    same, other, of_class = [], [], []
    for (i, (a, photo_a, ground_a)), (j, (b, photo_b, ground_b)) in combinations(enumerate(labels), 2):
        if a == b:
            if photo_a != photo_b and ground_a != ground_b:
                same.append(cos[i, j])
        elif ground_a == ground_b or not with_masks:
            if nouns[a] == nouns[b]:
                of_class.append(cos[i, j])
            if with_masks or nouns[a] == nouns[b]:
                other.append(cos[i, j])
    if not same or not other:
        return {"auc": None, "auc_class": None, "pairs_same": len(same), "pairs_other": len(other), "enough": False,
                "why": "it takes two photos of a subject, and two subjects of one class"}  # fmt: skip
    value = auc(same, other)
    return {
        "auc": value,
        "auc_class": auc(same, of_class) if of_class else None,
        "mean_same": fmean(map(float, same)),
        "mean_other": fmean(map(float, other)),
        "pairs_same": len(same),
        "pairs_other": len(other),
        "enough": value >= ENOUGH,
    }


def _composed(workshop: Any) -> list[tuple[str, int, int, Image.Image]]:
    """Each photo's subject, where it is in the photo, on two flat backgrounds; which two goes round with the photo."""
    pictures = []
    for name in workshop.subjects:
        judge = workshop.judge_of(name)
        for i, (file, photo) in enumerate(judge.photos.items()):
            mask = judge.masks[file]
            for ground in (i % len(BACKGROUNDS), (i + 3) % len(BACKGROUNDS)):
                picture = Image.new("RGB", photo.size, BACKGROUNDS[ground])
                picture.paste(photo, mask=mask)
                pictures.append((name, i, ground, picture))
    return pictures


def _photos(workshop: Any) -> list[tuple[str, int, int, Image.Image]]:
    """The photos as they are, each on a background of its own."""
    photos = [(name, i, p) for name in workshop.subjects for i, p in enumerate(workshop.judge_of(name).photos.values())]
    return [(name, i, number, photo) for number, (name, i, photo) in enumerate(photos)]


def _cutout_iou(workshop: Any) -> float:
    """How well `cut_out` finds the subjects of the photos, whose true masks are known: mean IoU."""
    return fmean(
        overlap(cut_out(photo), judge.masks[file])
        for judge in map(workshop.judge_of, workshop.subjects)
        for file, photo in judge.photos.items()
    )
