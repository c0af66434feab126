"""The forward pass of one step: from a batch to its loss."""

from __future__ import annotations

import torch
from torch import Tensor

from symdream.diffusion.base import Base
from symdream.diffusion.batch import Batch
from symdream.diffusion.conditioning import encode, unet_arguments
from symdream.diffusion.loss import add_noise, diffusion_loss, min_snr_weights, prediction_target


class BatchLoss:
    """`loss(batch)` with the base's modules as they are; min_snr_gamma: None for even weights."""

    def __init__(self, base: Base, *, train_text_encoder: bool, min_snr_gamma: float | None = None):
        self.base = base
        self.train_text_encoder = train_text_encoder
        self.min_snr_gamma = min_snr_gamma
        self.alphas_cumprod = base.scheduler.alphas_cumprod.to(base.device)

    def __call__(self, batch: Batch) -> Tensor:
        """Weighted squared error between the UNet's prediction and its target (symdream.diffusion.loss), a scalar."""
        base, schedule = self.base, self.alphas_cumprod
        x_t = add_noise(batch.x0, batch.noise, schedule, batch.timesteps)
        target = prediction_target(batch.x0, batch.noise, schedule, batch.timesteps, base.prediction_type)
        text = batch.text
        if text is None:
            with torch.set_grad_enabled(self.train_text_encoder):
                text = encode(base, batch.token_ids)
        told = unet_arguments(text.rows(batch.captions), batch.sizes)
        prediction = base.unet(x_t.to(base.dtype), batch.timesteps, **told).sample
        weights = batch.weights
        if self.min_snr_gamma is not None:
            by_noise = min_snr_weights(schedule, batch.timesteps, self.min_snr_gamma, base.prediction_type)
            weights = by_noise if weights is None else weights * by_noise
        return diffusion_loss(prediction, target, weights, batch.mask)
