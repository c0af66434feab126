"""What a person may want to know of the photos before they are trained on: none of it keeps a run from starting."""

from __future__ import annotations

from collections.abc import Sequence

from symdream.data.buckets import assign, cuts, kept, shapes
from symdream.data.photos import Photo

ENLARGED = 1.5  # times: beyond this a photo is visibly softer than what the base was trained on
KEPT = 0.5  # share of a photo's area


def photo_notes(photos: Sequence[Photo], resolution: int, vae_factor: int, *, buckets: bool, crop: str) -> list[str]:
    """Notes about photos of one subject that are enlarged much, of which little is shown, or that are there twice."""
    sizes = shapes(resolution, vae_factor, buckets=buckets)
    enlarged, cut_away, copies, first = [], [], [], {}
    for photo in photos:
        name, size = photo.path.name, assign(photo.image.size, sizes)
        left, _, right, _ = cuts(photo.image.size, size, "center")[0][0].box
        if (scale := size[0] / (right - left)) > ENLARGED:
            enlarged.append(f"{name} {scale:.1f} times")
        if crop == "center" and (share := kept(photo.image.size, size)) < KEPT:
            cut_away.append(f"{name} {share:.0%}")
        if first.setdefault(photo.sha256, name) != name:
            copies.append(f"{name} of {first[photo.sha256]}")
    notes = []
    if enlarged:
        notes.append(f"small photos are scaled up: {_some(enlarged)}; larger ones teach finer detail.")
    if cut_away:
        notes.append(
            f"less than half of a photo is trained on: {_some(cut_away)}, around its middle; "
            "crop it around the subject" + ("." if buckets else ", or keep its shape with --buckets.")
        )
    if copies:
        notes.append(f"copies of other photos: {_some(copies)}; each counts once more and teaches nothing new.")
    return notes


def _some(texts: Sequence[str]) -> str:
    """At most three of them."""
    return ", ".join(texts[:3]) + (", …" if len(texts) > 3 else "")
