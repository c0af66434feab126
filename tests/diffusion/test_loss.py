"""Losses against their formulas, and against diffusers where it has them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from symdream.diffusion.loss import (
    add_noise,
    diffusion_loss,
    min_snr_weights,
    offset_noise,
    prediction_target,
    rescale_zero_terminal_snr,
    snr,
)

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHAS = (1 - BETAS).cumprod(0)
STEPS = torch.tensor([0, 1, 250, 600, 999])


def latents(seed):
    return torch.randn(5, 4, 8, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_noise_and_velocity_are_diffusers_own():
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    x0, noise = latents(0).float(), latents(1).float()
    schedule = scheduler.alphas_cumprod
    torch.testing.assert_close(add_noise(x0, noise, schedule, STEPS), scheduler.add_noise(x0, noise, STEPS))
    v = prediction_target(x0, noise, schedule, STEPS, "v_prediction")
    torch.testing.assert_close(v, scheduler.get_velocity(x0, noise, STEPS))
    assert prediction_target(x0, noise, schedule, STEPS, "epsilon") is noise


def test_v_and_x_t_give_back_x0_and_noise():
    x0, noise = latents(0), latents(1)
    x_t, v = add_noise(x0, noise, ALPHAS, STEPS), prediction_target(x0, noise, ALPHAS, STEPS, "v_prediction")
    a, b = ALPHAS[STEPS].sqrt().view(-1, 1, 1, 1), (1 - ALPHAS[STEPS]).sqrt().view(-1, 1, 1, 1)
    torch.testing.assert_close(a * x_t - b * v, x0)
    torch.testing.assert_close(b * x_t + a * v, noise)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_are_the_formula(gamma):
    alphas = ALPHAS.numpy()
    for t in STEPS.tolist():
        ratio = alphas[t] / (1 - alphas[t])
        at = torch.tensor([t])
        for kind, divisor in (("epsilon", ratio), ("v_prediction", ratio + 1)):
            got = min_snr_weights(ALPHAS, at, gamma, kind).item()
            assert got == pytest.approx(min(ratio, gamma) / divisor, rel=1e-12)


def test_min_snr_is_one_weight_on_the_error_of_x0_whatever_the_unet_predicts():
    """An error e of x0 is -e·√SNR of ε and -e/√(1-ᾱ) of v: both weights make it min(SNR, γ) · e²."""
    ratio, alpha_bar = snr(ALPHAS, STEPS), ALPHAS[STEPS]
    by_x0 = ratio.clamp(max=5)
    torch.testing.assert_close(min_snr_weights(ALPHAS, STEPS, 5, "epsilon") * ratio, by_x0)
    torch.testing.assert_close(min_snr_weights(ALPHAS, STEPS, 5, "v_prediction") / (1 - alpha_bar), by_x0)


def test_a_prediction_type_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="epsilon and v_prediction"):
        prediction_target(latents(0), latents(1), ALPHAS, STEPS, "sample")
    with pytest.raises(ValueError, match="epsilon and v_prediction"):
        min_snr_weights(ALPHAS, STEPS, 5, "sample")


def test_the_loss_is_the_weighted_mean_of_each_samples_mean_square():
    a, b, weights = latents(0), latents(1), torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])
    each = [float(((a[i].float() - b[i].float()) ** 2).mean()) for i in range(5)]
    assert diffusion_loss(a, b).item() == pytest.approx(np.mean(each), rel=1e-6)
    expected = np.mean([w * e for w, e in zip(weights.tolist(), each, strict=True)])
    assert diffusion_loss(a, b, weights).item() == pytest.approx(expected, rel=1e-6)
    assert diffusion_loss(a.half(), b.half()).dtype == torch.float32


def test_offset_noise_moves_each_channel_as_a_whole():
    noise, offset = latents(0), torch.randn(5, 4, 1, 1, dtype=torch.float64)
    moved = offset_noise(noise, offset, 0.1) - noise
    torch.testing.assert_close(moved, (0.1 * offset).expand_as(noise))


def test_offset_noise_has_variance_one_plus_strength_squared():
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(4000, 4, 4, 4, generator=generator)
    offset = torch.randn(4000, 4, 1, 1, generator=generator)
    assert offset_noise(noise, offset, 0.5).var().item() == pytest.approx(1.25, rel=0.02)


def test_the_rescaled_schedule_is_diffusers_own():
    from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr as theirs

    expected = (1 - theirs(BETAS.clone())).cumprod(0)
    torch.testing.assert_close(rescale_zero_terminal_snr(ALPHAS), expected, rtol=1e-9, atol=1e-12)


@given(st.floats(1e-5, 1e-3), st.floats(2e-3, 5e-2), st.integers(10, 1000))
def test_a_rescaled_schedule_ends_in_noise_alone_starts_the_same_and_falls(first, last, count):
    alphas = (1 - torch.linspace(first, last, count, dtype=torch.float64)).cumprod(0)
    rescaled = rescale_zero_terminal_snr(alphas)
    assert rescaled[-1] == 0
    assert rescaled[0].item() == pytest.approx(alphas[0].item())
    assert (rescaled.diff() < 0).all()


def test_a_mask_weights_latent_pixels_and_keeps_the_samples_count():
    generator = torch.Generator().manual_seed(0)
    prediction, target = (torch.randn(3, 4, 6, 5, generator=generator) for _ in range(2))
    mask = torch.rand(3, 1, 6, 5, generator=generator)
    weights = torch.tensor([2.0, 2.0, 0.5])
    each = [
        sum(
            float(mask[i, 0, y, x] * ((prediction[i, :, y, x] - target[i, :, y, x]) ** 2).mean())
            for y in range(6)
            for x in range(5)
        )
        / float(mask[i].sum())
        for i in range(3)
    ]
    expected = sum(w * e for w, e in zip(weights.tolist(), each, strict=True)) / 3
    assert diffusion_loss(prediction, target, weights, mask).item() == pytest.approx(expected, rel=1e-5)
    plain = diffusion_loss(prediction, target, weights)
    torch.testing.assert_close(diffusion_loss(prediction, target, weights, torch.full_like(mask, 0.3)), plain)
