import diffusers
import pytest
import torch
from helpers.tiny_models import tiny_scheduler

from symdream.diffusion.limits import MAX_STEPS, wrong_settings


@pytest.mark.parametrize("kind", ["DDIM", "PNDM", "EulerDiscrete", "UniPCMultistep"])
def test_the_first_of_the_most_steps_can_be_made_and_one_more_is_refused(kind):
    scheduler = getattr(diffusers, f"{kind}Scheduler").from_config(tiny_scheduler("epsilon").config)
    scheduler.set_timesteps(MAX_STEPS)
    noise = torch.zeros(1, 4, 8, 8)
    assert scheduler.step(noise, scheduler.timesteps[0], noise).prev_sample.isfinite().all()
    assert "steps" not in wrong_settings(MAX_STEPS, None, None, None)
    assert "999" in wrong_settings(1000, None, None, None)["steps"]
