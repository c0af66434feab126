"""The loss of one training step: noise goes onto the latents, the UNet says what it was, we compare.

Symbols: x0 (B, 4, H, W) scaled latents, ε noise, ᾱ_t cumulated alphas of the base's schedule,
x_t = √ᾱ_t x0 + √(1-ᾱ_t) ε (DDPM, arXiv:2006.11239, eq. 4).
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_noise(x0: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """x_t = √ᾱ_t x0 + √(1-ᾱ_t) ε. x0, noise (B, C, H, W); timesteps (B,) integer -> (B, C, H, W)."""
    alpha_bar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise


def prediction_target(
    x0: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor, prediction_type: str
) -> Tensor:
    """What the UNet is asked to predict.

    epsilon: ε.   v_prediction: v = √ᾱ_t ε - √(1-ᾱ_t) x0 (arXiv:2202.00512, appendix D).
    Raises: ValueError for any other prediction type.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        alpha_bar = alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * x0
    raise ValueError(f"prediction_type {prediction_type!r}: know epsilon and v_prediction")


def diffusion_loss(prediction: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the batch of w_i · mean((prediction_i - target_i)²), in fp32; weights (B,), None = ones."""
    per_sample = (prediction.float() - target.float()).pow(2).mean(dim=(1, 2, 3))
    return (per_sample if weights is None else weights * per_sample).mean()


def sample_latents(mean: Tensor, std: Tensor, noise: Tensor, scaling_factor: float) -> Tensor:
    """x0 = scaling · (mean + std · noise): one draw of the VAE's posterior."""
    return scaling_factor * (mean + std * noise)


def encode_prompts(text_encoder: torch.nn.Module, token_ids: Tensor) -> Tensor:
    """Last hidden state (N, 77, D) of CLIP's text encoder for token ids (N, 77)."""
    return text_encoder(token_ids)[0]
