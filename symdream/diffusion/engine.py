"""The forward pass of one step: from a batch to its loss."""

from __future__ import annotations

import torch
from torch import Tensor

from symdream.data.training_set import Batch
from symdream.diffusion.base import Base
from symdream.diffusion.loss import add_noise, diffusion_loss, encode_prompts, prediction_target


class EagerEngine:
    """Computes the loss of a batch with the base's modules as they are, op by op."""

    def __init__(self, base: Base, *, train_text_encoder: bool):
        self.base = base
        self.train_text_encoder = train_text_encoder
        self.alphas_cumprod = base.scheduler.alphas_cumprod.to(base.device)

    def loss(self, batch: Batch) -> Tensor:
        """Mean squared error between the UNet's prediction and its target (symdream.diffusion.loss), a scalar."""
        x_t = add_noise(batch.x0, batch.noise, self.alphas_cumprod, batch.timesteps)
        target = prediction_target(
            batch.x0, batch.noise, self.alphas_cumprod, batch.timesteps, self.base.prediction_type
        )
        with torch.set_grad_enabled(self.train_text_encoder):
            text = encode_prompts(self.base.text_encoder, batch.token_ids)
        prediction = self.base.unet(x_t.to(self.base.dtype), batch.timesteps, text[batch.captions]).sample
        return diffusion_loss(prediction, target)
