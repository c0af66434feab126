"""What a picture is going to be, seen while it is still being denoised."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

if TYPE_CHECKING:
    from symdream.diffusion.base import Base

LEAST_SIGNAL = 1e-4  # of ᾱ: at zero terminal SNR the prediction of the noise alone says nothing of x_0


@dataclass(frozen=True, repr=False)
class Preview:
    """A batch after one denoising step, and the model's guess of its end.

        x_0 ≈ (x_t - √(1-ᾱ_t) ε) / √ᾱ_t        for a model that predicts the noise ε (DDIM, arXiv:2010.02502, eq. 12)
        x_0 ≈ √ᾱ_t x_t - √(1-ᾱ_t) v            for one that predicts v (arXiv:2202.00512, appendix D)

    x_t is what the UNet was given at timestep t, (B, 4, h, w); schedulers that work in σ instead of ᾱ give it their
    sample divided by √(σ² + 1), which is this same x_t. `first` is the place of the batch's first image among all
    images; `done` of `total` steps are done, over all batches.
    """

    base: Base
    scheduler: object
    first: int
    done: int
    total: int
    x_t: Tensor
    prediction: Tensor
    t: Tensor

    @property
    def latents(self) -> Tensor:
        """The guess x_0, (B, 4, h, w)."""
        alpha_bar = float(self.scheduler.alphas_cumprod[round(float(self.t))])
        signal, noise = sqrt(max(alpha_bar, LEAST_SIGNAL)), sqrt(1 - alpha_bar)
        if self.base.prediction_type == "v_prediction":
            return signal * self.x_t - noise * self.prediction
        return (self.x_t - noise * self.prediction) / signal

    @torch.inference_mode()
    def pictures(self) -> list[Image.Image]:
        """The guess as pictures, at the cost of one pass through the VAE's decoder."""
        from symdream.diffusion.sampling import decode

        return decode(self.base, self.latents)
