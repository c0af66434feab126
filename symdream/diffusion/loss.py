"""The loss of one training step: noise goes onto the latents, the UNet says what it was, we compare.

Symbols: x0 (B, 4, H, W) scaled latents, ε noise, ᾱ_t cumulated alphas of the base's schedule,
x_t = √ᾱ_t x0 + √(1-ᾱ_t) ε (DDPM, arXiv:2006.11239, eq. 4).
"""

from __future__ import annotations

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


def sample_losses(
    prediction: Tensor, target: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """w_i · Σ m_i (prediction_i - target_i)² / Σ m_i of each sample in fp32, (B,).

    weights (B,) of samples and mask (B, 1, H, W) of latent pixels, both None = ones. A mask moves the loss within
    its sample without changing how much the sample counts.
    """
    squares = (prediction.float() - target.float()).pow(2)
    if mask is None:
        per_sample = squares.mean(dim=(1, 2, 3))
    else:
        per_sample = (mask * squares.mean(dim=1, keepdim=True)).sum(dim=(1, 2, 3)) / mask.sum(dim=(1, 2, 3))
    return per_sample if weights is None else weights * per_sample


def diffusion_loss(
    prediction: Tensor, target: Tensor, weights: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    """The mean of `sample_losses` over the batch."""
    return sample_losses(prediction, target, weights, mask).mean()


def snr(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Signal-to-noise ratio ᾱ_t / (1-ᾱ_t) of each sample, (B,)."""
    alpha_bar = alphas_cumprod[timesteps]
    return alpha_bar / (1 - alpha_bar)


def min_snr_weights(alphas_cumprod: Tensor, timesteps: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Min-SNR-γ (arXiv:2303.09556, section 3.4): weights (B,) of the samples' squared errors.

    epsilon: min(SNR, γ) / SNR.   v_prediction: min(SNR, γ) / (SNR + 1).
    Both are the weight min(SNR, γ) on the error of x0, written for what the UNet predicts.
    Raises: ValueError for any other prediction type.
    """
    ratio = snr(alphas_cumprod, timesteps)
    if prediction_type == "epsilon":
        return (gamma / ratio).clamp(max=1)  # the same, and 1 where SNR = 0
    if prediction_type == "v_prediction":
        return ratio.clamp(max=gamma) / (ratio + 1)
    raise ValueError(f"prediction_type {prediction_type!r}: know epsilon and v_prediction")


def offset_noise(noise: Tensor, offset: Tensor, strength: float) -> Tensor:
    """ε + strength · δ, δ one number for each sample and channel, so that the mean of a picture is learned too.

    N. Guttenberg, "Diffusion with Offset Noise", Cross Labs, 2023. noise (B, C, H, W); offset (B, C, 1, 1).
    """
    return noise + strength * offset


def rescale_zero_terminal_snr(alphas_cumprod: Tensor) -> Tensor:
    """The schedule shifted and scaled so that the last step is noise alone (arXiv:2305.08891, algorithm 1).

    √ᾱ'_t = (√ᾱ_t - √ᾱ_T) · √ᾱ_0 / (√ᾱ_0 - √ᾱ_T): ᾱ'_T = 0 and ᾱ'_0 = ᾱ_0. (T,) -> (T,).
    Only for v-prediction: at ᾱ = 0 the noise that an ε-prediction names is the input itself, and tells nothing.
    """
    root = alphas_cumprod.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])).square()
