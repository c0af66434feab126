import diffusers
import numpy as np
import pytest
import torch

from symdream.diffusion.base import load_base
from symdream.diffusion.loss import rescale_zero_terminal_snr
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.diffusion.sampling import make_scheduler, sample


def test_training_and_sampling_share_the_rescaled_schedule(tiny_sd2):
    base = load_base(str(tiny_sd2))
    before = base.scheduler.alphas_cumprod.clone()
    use_zero_terminal_snr(base)
    assert base.scheduler.alphas_cumprod[-1] == 0
    assert torch.equal(base.scheduler.alphas_cumprod, rescale_zero_terminal_snr(before))
    for sampler in ("base", "ddim", "euler", "dpm++"):
        scheduler = make_scheduler(base, sampler)
        assert scheduler.config.prediction_type == "v_prediction"
        assert scheduler.alphas_cumprod[-1] < 1e-6
        torch.testing.assert_close(
            scheduler.alphas_cumprod[:-1], base.scheduler.alphas_cumprod[:-1], rtol=1e-3, atol=1e-6
        )
        scheduler.set_timesteps(10)
        assert scheduler.timesteps[0] == 999, "sampling starts where the picture is noise alone"


@pytest.mark.parametrize("sampler", ["base", "euler", "dpm++"])
def test_each_sampler_draws_finite_pictures_on_it(tiny_sd2, sampler):
    base = load_base(str(tiny_sd2))
    [plain] = sample(base, ["a toy"], [0], steps=2, sampler=sampler)
    use_zero_terminal_snr(base)
    [rescaled] = sample(base, ["a toy"], [0], steps=2, sampler=sampler)
    assert np.asarray(rescaled).std() > 0
    assert not np.array_equal(np.asarray(plain), np.asarray(rescaled))


@pytest.mark.parametrize(
    "kind", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DDIMScheduler"]
)
def test_so_does_diffusers_own_pipeline_over_the_same_modules(tiny_sd2, kind):
    base = load_base(str(tiny_sd2))
    base.scheduler = getattr(diffusers, kind).from_config(base.scheduler.config)
    use_zero_terminal_snr(base)
    pipe = base.pipeline()
    [image] = pipe("a toy", num_inference_steps=2, height=64, width=64, output_type="np").images
    assert type(pipe.scheduler) is getattr(diffusers, kind) and np.isfinite(image).all() and image.std() > 0
    assert base.scheduler.alphas_cumprod[-1] == 0, "training has the schedule as it was"


def test_a_scheduler_that_cannot_gives_way_to_ddim(tiny_sd2):
    from diffusers import DDIMScheduler, PNDMScheduler

    base = load_base(str(tiny_sd2))
    base.scheduler = PNDMScheduler.from_config(base.scheduler.config)
    use_zero_terminal_snr(base)
    assert type(base.scheduler) is DDIMScheduler and base.scheduler.alphas_cumprod[-1] == 0


def test_a_rescaled_schedule_is_not_rescaled_again(tiny_sd2):
    base = load_base(str(tiny_sd2))
    use_zero_terminal_snr(base)
    first = base.scheduler
    use_zero_terminal_snr(base)
    assert base.scheduler is first
