"""Whether encoders and images belong together: emoji art or photographs."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from PIL import Image

from symdream.metrics.encoders import PHOTO_CLIP, PHOTO_DINO, Encoder
from symdream.training.photographs import FLAT_SHARE, flat_share
from symdream.ui import say


def warn_if_unsuitable(references: Sequence[Image.Image], *encoders: Encoder) -> None:
    """Say so if sprite's encoders are to judge photographs, or encoders of photographs flat art."""
    photographs = median(map(flat_share, references)) < FLAT_SHARE
    embedded = [encoder.is_sprite for encoder in encoders]
    if photographs and any(embedded):
        say(
            "warning: sprite's encoders know emoji art only; on photographs their scores say little. "
            f"Take --dino {PHOTO_DINO} --clip {PHOTO_CLIP}."
        )
    elif not photographs and not all(embedded):
        say(
            "note: these encoders know photographs; on flat art, as these pictures seem to be, they see identity "
            "less sharply than sprite's own (--dino sprite --clip sprite)."
        )
