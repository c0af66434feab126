import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symdream.training.schedule import lr_factor, ramp, ramp_after


@given(steps=st.integers(1, 2000), warmup=st.floats(0, 1), schedule=st.sampled_from(["constant", "linear", "cosine"]))
def test_the_factor_stays_between_0_and_1_and_never_starts_at_0(steps, warmup, schedule):
    factors = [lr_factor(step, steps, schedule, warmup) for step in range(steps)]
    assert all(0 < f <= 1 for f in factors)


def test_warm_up_grows_linearly_then_the_schedule_begins_at_1():
    assert [lr_factor(s, 10, "linear", 0.4) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@pytest.mark.parametrize("steps", [100, 1000])
@pytest.mark.parametrize("percent", [7, 14, 28, 29, 55, 57, 58])
def test_a_share_of_the_steps_is_a_whole_number_of_them(steps, percent):
    """0.29 * 100 is 28.999… in binary."""
    count = percent * steps // 100
    shares = [(s + 1) / count for s in range(count)]
    assert [lr_factor(s, steps, "constant", percent / 100) for s in range(count)] == shares
    assert [ramp(s, steps, percent / 100) for s in range(count)] == shares


def test_cosine_is_half_way_in_the_middle():
    assert math.isclose(lr_factor(50, 100, "cosine", 0.0), 0.5)


def test_the_ramp_is_the_papers_with_t_counted_from_1():
    assert [ramp(s, 400, 0.01) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_what_is_saved_after_a_step_was_last_trained_with_that_steps_u():
    assert [ramp_after(done, 400, 0.01) for done in range(1, 6)] == [ramp(s, 400, 0.01) for s in range(5)]


@pytest.mark.parametrize("fraction", [0.0, None, 0.001])
def test_no_ramp_means_u_is_1_at_once(fraction):
    assert ramp(0, 200, fraction) == 1.0


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warm", [0, 10])
def test_after_the_warm_up_the_factor_is_diffusers_own(schedule, warm):
    import torch
    from diffusers.optimization import get_scheduler

    name = "constant_with_warmup" if schedule == "constant" else schedule
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = get_scheduler(name, optimizer, num_warmup_steps=warm, num_training_steps=50)
    for step in range(50):
        if step >= warm:
            assert lr_factor(step, 50, schedule, warm / 50) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        theirs.step()
