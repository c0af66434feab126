"""From a picture to an encoder's input: one pinned, written-down way per encoder.

The order is the reference implementations' (DINO's eval transform, OpenAI's CLIP): resize, centre crop, to
[0, 1], normalise. Resizing is Pillow's, which is antialiased: other resizers differ by up to a few grey levels
and with them the scores, so the description goes into every result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from PIL import Image

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # (x / 255 - .5) / .5 = x / 127.5 - 1


@dataclass(frozen=True)
class Preprocessing:
    """Shorter side to `resize` px, central `crop` x `crop` px, then (x / 255 - mean) / std per channel."""

    resize: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"

    def __call__(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images of any size -> [N, 3, crop, crop] float32."""
        pixels = torch.stack([torch.from_numpy(np.array(self._cropped(image))) for image in images])
        mean, std = torch.tensor(self.mean), torch.tensor(self.std)
        return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()

    def describe(self) -> dict:
        """What is written beside each score."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "resizer": "Pillow, antialiased"}

    def _cropped(self, image: Image.Image) -> Image.Image:
        image = image.convert("RGB")
        short, long = sorted(image.size)
        # The longer side is rounded down, the crop's corner to the nearest even: torchvision's conventions.
        longer = int(self.resize * long / short)
        size = (self.resize, longer) if image.width <= image.height else (longer, self.resize)
        if image.size != size:
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        left, top = (round((side - self.crop) / 2) for side in image.size)
        return image.crop((left, top, left + self.crop, top + self.crop))


def dino_preprocessing() -> Preprocessing:
    """DINO's and DINOv2's evaluation: 256 bicubic, centre 224, ImageNet (facebookresearch/dino, eval_knn.py)."""
    return Preprocessing(256, 224, *IMAGENET)


def clip_preprocessing(size: int) -> Preprocessing:
    """CLIP's own: `size` (the model's, mostly 224) bicubic, centre crop, CLIP mean and std (openai/CLIP, clip.py)."""
    return Preprocessing(size, size, *OPENAI_CLIP)


def sprite_preprocessing() -> Preprocessing:
    """The embedded encoders': 128 px, x / 127.5 - 1."""
    return Preprocessing(128, 128, *HALF)
