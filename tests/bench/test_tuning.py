"""Tuning is fair: equal trials for all, and the range grows only where the best lies at its edge."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symdream.bench.arms import Arm
from symdream.bench.grid import Grid
from symdream.bench.tuning import Trial, at_edge, best_of, changed, first_trials, floor_of, next_trials, objective

ARMS = ("lora-r8", "singlora-r8", "symlora-r8")


def tune(curves, grid):
    """All rounds of tuning on objectives known as functions of the place."""
    found = {arm: {} for arm in ARMS}
    trials = [trial for arm in ARMS for trial in first_trials(arm, grid)]
    while trials:
        for trial in trials:
            found[trial.arm][trial] = curves[trial.arm](trial.place)
        trials = next_trials(found, grid)
    return found


@given(st.lists(st.integers(-6, 6), min_size=3, max_size=3), st.integers(2, 4), st.integers(0, 4))
def test_every_arm_has_as_many_trials_and_those_in_reach_find_their_optimum(optima, trials, more):
    grid = Grid(tuning_trials=trials, tuning_limit=trials + more)
    curves = {arm: (lambda place, top=top: -abs(place - top)) for arm, top in zip(ARMS, optima, strict=True)}
    found = tune(curves, grid)
    assert len({len(of_arm) for of_arm in found.values()}) == 1
    for arm, top in zip(ARMS, optima, strict=True):
        places = sorted(trial.place for trial in found[arm])
        assert places == list(range(places[0], places[-1] + 1)) and len(places) <= trials + more
        if places[0] <= top <= places[-1]:
            assert best_of(found[arm]).place == top
        elif len(places) < trials + more:
            pytest.fail("the range ended before its limit with the optimum outside")


def test_an_optimum_inside_asks_for_no_more_trials():
    grid = Grid(tuning_trials=3, tuning_limit=9)
    assert all(len(found) == 3 for found in tune(dict.fromkeys(ARMS, lambda place: -(place**2)), grid).values())


def test_rates_lie_half_a_decade_apart_around_the_default_and_alpha_is_an_axis_if_asked():
    arm = Arm("lora-r8", "lora", 8, "LoRA r8", "equal rank", 1)
    grid = Grid(tuning_trials=3, tuning_alphas=[1.0, 2.0])
    settings = [trial.settings(arm, embedded=True) for trial in first_trials("lora-r8", grid)]
    rates = sorted({one.lr for one in settings})
    assert len(settings) == 6 and {one.alpha for one in settings} == {8.0, 16.0}
    assert [math.log10(high / low) for low, high in zip(rates, rates[1:], strict=False)] == pytest.approx(
        [0.5, 0.5], abs=0.01
    )


def test_a_trial_below_the_floor_ranks_after_all_that_keep_it():
    base = [{"dino": 0.0, "clip_t": 0.8}]
    hot = objective([{"dino": 0.9, "clip_t": 0.39}], base, 0.4)
    hotter = objective([{"dino": 0.9, "clip_t": 0.30}], base, 0.4)
    kept = objective([{"dino": -0.1, "clip_t": 0.4}], base, 0.4)
    assert hotter < hot < kept == pytest.approx(-0.1)


def test_the_floor_is_a_share_of_the_ideal_pictures_or_else_of_the_base():
    grid = Grid(clip_t_floor=0.8)
    base = [{"base": {"clip_t": 0.9}}, {"base": {"clip_t": 0.7}}]
    ideal = [{"ceiling": {"clip_t": 0.5}}, {"ceiling": {"clip_t": 0.6}}]
    assert floor_of(grid, base, ideal) == pytest.approx(0.8 * 0.55)
    assert floor_of(grid, base, [{"ceiling": None}, {"ceiling": None}]) == pytest.approx(0.8 * 0.8)


@pytest.mark.parametrize(
    ("before", "told"),
    [
        ({}, []),
        ({"config": {"tuning_trials": 5, "tuning_limit": 7}}, ["tuning_trials", "tuning_limit"]),
        ({"config": {"tuning_alphas": [1.0, 2.0], "clip_t_floor": 0.5}}, ["tuning_alphas", "clip_t_floor"]),
        ({"config": {"image_seeds": [3]}}, ["image_seeds"]),
        ({"config": {"steps": 7}}, []),  # of the protocol
        ({"tuning_subjects": ["fox"], "selection": {"fox": []}}, ["tuning_subjects"]),
        ({"selection": {"owl": ["a {subject}"]}}, ["the selection prompts"]),
    ],
)
def test_what_would_tune_otherwise_is_told(before, told):
    now = {"config": Grid().model_dump(), "tuning_subjects": ["owl"], "selection": {"owl": ["a {subject} on red"]}}
    assert changed(now | before | {"config": now["config"] | before.get("config", {})}, now) == told


def test_an_older_comparison_does_not_tell_its_selection_prompts():
    now = {"config": Grid().model_dump(), "tuning_subjects": ["owl"], "selection": {"owl": ["a {subject} on red"]}}
    assert changed({name: now[name] for name in ("config", "tuning_subjects")}, now) == []


def test_of_equal_trials_the_smallest_rate_is_taken_and_lies_at_the_edge():
    found = {Trial("a", place, 1.0): 0.0 for place in (-1, 0, 1)}
    assert best_of(found).place == -1 and at_edge(found)
