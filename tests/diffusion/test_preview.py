"""The guess of the end of a denoising against diffusers' own, and stopping in the middle of a step."""

import pytest
import torch

from symdream.diffusion.base import load_base
from symdream.diffusion.sampling import SAMPLERS, make_scheduler, sample
from symdream.errors import Stopped


@pytest.fixture(scope="module")
def base(tiny_sd1):
    return load_base(str(tiny_sd1))


def told_by_diffusers(base, sampler, steps):
    """x_0 as the scheduler itself guesses it in each step, of the same pictures that `sample` makes."""
    scheduler = make_scheduler(base, sampler)
    original, guesses = type(scheduler).step, []

    def step(self, *args, **kwargs):
        result = original(self, *args, **{**kwargs, "return_dict": True})
        guesses.append(result.pred_original_sample)
        return (result.prev_sample,)

    return type(scheduler), step, guesses


@pytest.mark.parametrize("sampler", ["ddim", "euler"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_guess_is_the_schedulers_own(base, monkeypatch, sampler, prediction_type):
    monkeypatch.setattr(base, "prediction_type", prediction_type)
    changed = type(base.scheduler).from_config(
        base.scheduler.config, prediction_type=prediction_type, clip_sample=False, thresholding=False
    )
    monkeypatch.setattr(base, "scheduler", changed)
    kind, step, expected = told_by_diffusers(base, sampler, 4)
    monkeypatch.setattr(kind, "step", step)
    seen = []
    sample(base, ["a", "b"], [0, 1], steps=4, sampler=sampler, watch=seen.append)
    assert len(seen) == len(expected) == 4
    for preview, x_0 in zip(seen, expected, strict=True):
        torch.testing.assert_close(preview.latents, x_0, rtol=1e-3, atol=1e-3)


def test_the_last_preview_is_nearly_the_picture_and_says_where_it_belongs(base):
    seen = []
    images = sample(base, ["a", "b", "c"], [0, 1, 2], steps=3, sampler="ddim", batch_size=2, watch=seen.append)
    assert [(g.first, g.done, g.total) for g in seen] == [(first, i, 6) for i, first in enumerate([0] * 3 + [2] * 3, 1)]
    ends = seen[2].pictures() + seen[5].pictures()
    for image, end in zip(images, ends, strict=True):
        difference = torch.tensor(list(image.tobytes())).float() - torch.tensor(list(end.tobytes())).float()
        assert difference.abs().mean() < 12


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_watching_changes_no_picture(base, sampler):
    plain = sample(base, ["a"], [3], steps=2, sampler=sampler)
    watched = sample(base, ["a"], [3], steps=2, sampler=sampler, watch=lambda g: g.pictures(), stop=lambda: False)
    assert plain[0].tobytes() == watched[0].tobytes()


def test_stop_ends_within_the_step_and_leaves_the_base_as_it_was(base):
    plain = sample(base, ["a"], [3], steps=2)
    asked, steps = [], []

    def stop():
        asked.append(None)
        return len(asked) == 3

    with pytest.raises(Stopped):
        sample(base, ["a"], [3], steps=50, stop=stop, on_step=lambda done, total: steps.append(done))
    assert not steps and len(asked) == 3  # not even the first step was finished, and nobody was asked again
    assert sample(base, ["a"], [3], steps=2)[0].tobytes() == plain[0].tobytes()
    assert len(asked) == 3
