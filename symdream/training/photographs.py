"""Are these photographs? The embedded base draws toys, and whoever brings photos should hear it before training."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

import numpy as np
from PIL import Image

from symdream.config import TrainConfig
from symdream.diffusion.sizes import download_bytes
from symdream.training.memory_advice import known_footprint, need

SIDE = 128  # pixels, sprite's own resolution
FLAT_SHARE = 0.36


def flat_share(image: Image.Image) -> float:
    """Share of pixels equal in RGB to both their right and lower neighbour, after shrinking to 128 px (box).

    Drawn backgrounds are one exact colour; a camera's noise and shading leave hardly two equal neighbours.
    Measured (line drawn at 0.36): of 300 Fluent Emoji composed on plain, striped, checkered and dotted
    backgrounds 0 fell below it (5 to 95 %: .50 to .82), of the 154 photographs in DreamBooth's data set 2 rose
    above it (.00 to .31), both product shots on pure white; its 4 cartoon drawings did, rightly. Saved as JPEG
    (quality 85), 30 % of the drawings fell below: such art is taken for photographs, at the cost of a warning.
    """
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)).astype(int)
    here = pixels[:-1, :-1]
    same = (here == pixels[1:, :-1]).all(-1) & (here == pixels[:-1, 1:]).all(-1)
    return float(same.mean())


def photo_warning(images: Sequence[Image.Image]) -> str | None:
    """What to tell someone who gives these images to 'sprite', or None if they look drawn (median of the set)."""
    if not images or median(map(flat_share, images)) >= FLAT_SHARE:
        return None
    usual = TrainConfig()
    gpu = need(usual, known_footprint("sd15", bytes_per_number=2), gpu=True)
    cpu = need(usual, known_footprint("sd15", bytes_per_number=4), gpu=False)
    return (
        "These look like photographs, and the base 'sprite' draws toys: it will make an emoji of your subject. "
        f"For photographs choose --base sd15: it downloads {download_bytes('sd15') / 1e9:.1f} GB once and takes "
        f"about {gpu / 1e9:.0f} GB of GPU memory to train, or {cpu / 1e9:.0f} GB of RAM and much patience on a CPU."
    )
