"""DINO at matched CLIP-T on paths whose answer is known, and the hypervolume against a count of cells."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symdream.bench.endpoint import dino_at, front, hypervolume, matched_difference
from symdream.bench.statistics import t_interval

numbers = st.integers(-8, 8).map(lambda v: v / 8)
paths = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=5)


def test_a_longer_run_is_taken_back_to_the_clip_t_of_the_shorter():
    base = (0.8, -0.2)
    long, short = [base, (0.6, 0.0), (0.4, 0.3)], [base, (0.7, -0.05), (0.5, 0.1)]
    # At .5 the long run is half way between .0 and .3; the short one has .1 there.
    assert matched_difference(long, short) == pytest.approx(0.15 - 0.1)


def test_runs_that_gain_clip_t_meet_where_the_one_that_gained_less_ended():
    base = (0.3, 0.1)
    assert matched_difference([base, (0.5, 0.5)], [base, (0.4, 0.2)]) == pytest.approx(0.3 - 0.2)


def test_of_runs_that_part_in_clip_t_nothing_is_said():
    assert matched_difference([(0.5, 0.1), (0.6, 0.5)], [(0.5, 0.1), (0.4, 0.2)]) is None


def test_where_both_can_be_taken_back_more_clip_t_counts():
    ours, theirs = [(0.8, 0.0), (0.3, 0.4), (0.5, 0.6)], [(0.8, 0.0), (0.2, 0.2), (0.4, 0.3)]
    # Ours ends at .5; theirs last had that on the way down, half way from .8 to .2.
    assert matched_difference(ours, theirs) == pytest.approx(0.6 - 0.1)


def test_nothing_is_extrapolated():
    assert dino_at([(0.8, 0.0), (0.6, 0.2)], 0.5) is None and dino_at([(0.8, 0.0), (0.6, 0.2)], 0.9) is None
    assert matched_difference([(0.8, 0.0), (0.7, 0.1)], [(0.6, 0.2), (0.5, 0.3)]) is None


def test_the_last_place_with_this_clip_t_counts():
    assert dino_at([(0.8, 0.0), (0.4, 0.1), (0.8, 0.2), (0.4, 0.3)], 0.6) == pytest.approx(0.25)


@pytest.mark.parametrize("path", [[(0.5, 0.0), (0.5, 0.2), (0.4, 0.3)], [(0.4, 0.3), (0.5, 0.0), (0.5, 0.2)]])
def test_of_states_of_one_clip_t_the_last_counts(path):
    assert dino_at(path, 0.5) == pytest.approx(0.2)


@given(paths, paths)
def test_exchanging_the_runs_changes_the_sign_only(ours, theirs):
    there, back = matched_difference(ours, theirs), matched_difference(theirs, ours)
    assert (there is None) == (back is None) and (there is None or there == pytest.approx(-back))


@given(paths, numbers)
def test_a_path_beside_itself_differs_by_how_far_it_was_lifted(path, lift):
    assert matched_difference([(x, y + lift) for x, y in path], path) == pytest.approx(lift)


@given(paths, numbers)
def test_dino_stays_within_the_path(path, level):
    found = dino_at(path, level)
    if found is None:
        assert not min(x for x, _ in path) <= level <= max(x for x, _ in path)
    else:
        assert min(y for _, y in path) - 1e-9 <= found <= max(y for _, y in path) + 1e-9


@given(paths, numbers)
def test_hypervolume_is_the_area_that_some_point_dominates(points, floor):
    """On a grid of eighths every cell is dominated wholly or not at all."""
    reference = (0.0, floor)
    centres = [((i + 0.5) / 8, floor + (j + 0.5) / 8) for i in range(8) for j in range(16)]
    cells = sum(any(x > a and y > b for x, y in points) for a, b in centres)
    assert hypervolume(points, reference) == pytest.approx(cells / 64)


@given(paths)
def test_nothing_beats_a_point_of_the_front_and_something_every_other(points):
    best = front(points)
    for point in points:
        beaten = any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)
        assert (point in best) != beaten


@pytest.mark.parametrize("subjects", [14, 8])
@pytest.mark.parametrize(("effect", "shorter"), [(0.0, 1.0), (-0.03, 1.0), (-0.03, 0.7)])
def test_intervals_of_the_primary_endpoint_cover_the_truth(subjects, effect, shorter):
    """1,000 grids of subjects × 2 training seeds, 3 checkpoints and noise in both scores of every state.

    Both methods walk down one line of (CLIP-T, DINO), the second less far where `shorter` < 1, so that the plain
    difference at the end is wrong by 0.12; ours lies `effect` below it everywhere but at the base.
    """
    random = np.random.default_rng(5)
    grids = 1_000
    ease, gain = random.normal(0, 0.1, (grids, subjects)), random.normal(0, 0.03, (grids, subjects))
    noise = random.normal(0, 0.015, (grids, subjects, 2, 2, 3, 2))  # method, training seed, checkpoint, score

    def path(grid, subject, method, seed):
        states = [(0.8, -0.2 + ease[grid, subject])]
        for number in range(3):
            down = 0.4 * (number + 1) / 3 * (shorter if method else 1)
            lift = 0.0 if method else effect + gain[grid, subject]
            x, y = noise[grid, subject, method, seed, number]
            states.append((0.8 - down + x, -0.2 + ease[grid, subject] + down + lift + y))
        return states

    found = np.array([
        [[matched_difference(path(g, s, 0, t), path(g, s, 1, t)) for t in (0, 1)] for s in range(subjects)]
        for g in range(grids)
    ], dtype=float).mean(axis=2)  # fmt: skip
    low, high = t_interval(found)
    assert 0.93 <= np.mean((low < effect) & (effect < high)) <= 0.97
