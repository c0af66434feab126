"""Intervals and tests against scipy, against their definitions, and on simulated data with a known answer."""

from itertools import chain, combinations, product

import numpy as np
import pytest
from helpers.oracles import permutation_p
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from symdream.bench.statistics import (
    BETTER,
    BOOTSTRAP_FROM,
    INFERIOR,
    NON_INFERIOR,
    UNDECIDED,
    bootstrap_interval,
    holm,
    sign_flip_test,
    smallest_p,
    subjects_needed,
    t_interval,
    t_test,
    verdict,
)

# On a grid, so that ties of sums happen and are exact.
differences = st.lists(st.integers(-6, 6).map(lambda v: v / 8), min_size=1, max_size=9)
sides = pytest.mark.parametrize(
    ("side", "alternative"), [("both", "two-sided"), ("above", "greater"), ("below", "less")]
)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30).filter(lambda v: np.std(v) > 1e-6))
def test_t_interval_and_test_are_scipys(values):
    interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert t_interval(values) == pytest.approx((interval.low, interval.high))
    assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_one_subject_has_no_interval():
    assert np.isnan(t_interval([0.3])).all() and t_test([0.3]) is None


@pytest.mark.parametrize("other", [0.3, 0.1 + 0.2])
def test_differences_that_are_equal_but_for_rounding_have_no_t_test(other):
    assert t_test([0.3, other]) is None


@given(differences)
def test_sign_flip_test_counts_all_signs(values):
    sums = [float(np.dot(signs, values)) for signs in product((1, -1), repeat=len(values))]
    total = sum(values)
    assert sign_flip_test(values) == pytest.approx(np.mean([abs(s) >= abs(total) for s in sums]))
    assert sign_flip_test(values, "above") == pytest.approx(np.mean([s >= total for s in sums]))
    assert sign_flip_test(values, "below") == pytest.approx(np.mean([s <= total for s in sums]))


@pytest.mark.parametrize("n", [7, 14])
@sides
def test_sign_flip_test_is_scipys_permutation_test(n, side, alternative):
    values = np.random.default_rng(n).normal(0.3, 1, n)
    assert sign_flip_test(values, side) == pytest.approx(permutation_p(values, alternative))


def test_thirty_subjects_are_counted_exactly():
    """2^30 assignments: all signs equal gives the least p, and one small value against it twice as many."""
    values = np.ones(30)
    assert sign_flip_test(values) == pytest.approx(2 / 2**30, rel=1e-12) == smallest_p(30)
    values[0] = 0
    assert sign_flip_test(values) == pytest.approx(4 / 2**30, rel=1e-12)


@sides
def test_beyond_forty_subjects_p_is_sampled_and_about_students(side, alternative):
    values = np.random.default_rng(1).normal(0.3, 1, 60)
    student = stats.ttest_1samp(values, 0, alternative=alternative).pvalue
    assert sign_flip_test(values, side) == pytest.approx(student, rel=0.1)


def test_a_sampled_p_is_never_zero_and_those_of_both_sides_add_up_to_one():
    values = np.random.default_rng(0).normal(0, 1, 60)
    assert sign_flip_test(values, "above") + sign_flip_test(values, "below") == pytest.approx(1, abs=0.01)
    assert sign_flip_test(np.ones(60)) == smallest_p(60) > 0


@given(st.integers(1, 12))
def test_the_smallest_p_is_attained_when_all_differences_agree(n):
    values = np.linspace(1, 2, n)
    assert sign_flip_test(values) == pytest.approx(smallest_p(n))
    assert sign_flip_test(values, "above") == pytest.approx(smallest_p(n, "above"))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferronis(p_values):
    """A hypothesis falls at level a when every intersection that holds it falls by Bonferroni's test at a."""
    every = range(len(p_values))
    subsets = list(chain.from_iterable(combinations(every, size) for size in range(1, len(p_values) + 1)))
    for index, corrected in enumerate(holm(p_values)):
        closed = max(min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets if index in s)
        assert corrected == pytest.approx(closed)


def test_bootstrap_only_from_twenty_subjects():
    values = np.random.default_rng(3).normal(0.1, 1, BOOTSTRAP_FROM)
    low, high = bootstrap_interval(values)
    t_low, t_high = t_interval(values)
    assert low < values.mean() < high and high - low == pytest.approx(t_high - t_low, rel=0.25)
    assert bootstrap_interval(values[:-1]) is None


def test_bootstrap_of_many_subjects_is_the_normal_interval():
    values = np.random.default_rng(3).normal(0.1, 1, 400)
    error = values.std(ddof=1) / 20
    normal = stats.norm.interval(0.95, values.mean(), error)
    assert bootstrap_interval(values) == pytest.approx(normal, abs=0.15 * error)


def test_bootstrap_of_equal_differences_is_none():
    assert bootstrap_interval([0.25] * BOOTSTRAP_FROM) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.001, 0.2, BETTER), (-0.019, 0.2, NON_INFERIOR), (-0.019, -0.001, NON_INFERIOR), (-0.3, -0.021, INFERIOR),
     (-0.3, -0.019, UNDECIDED), (-0.3, 0.3, UNDECIDED)],
)  # fmt: skip
def test_verdicts_of_intervals(low, high, expected):
    assert verdict(low, high, 0.02, 0.001, 0.001, 0.001) == expected


def test_a_verdict_needs_the_corrected_test_too():
    assert verdict(0.001, 0.2, 0.02, 0.03, 0.001, 1) == NON_INFERIOR
    assert verdict(0.001, 0.2, 0.02, 0.03, 0.03, 1) == UNDECIDED
    assert verdict(-0.3, -0.1, 0.02, 1, 1, 0.03) == UNDECIDED


@pytest.mark.parametrize(("effect", "n"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_subjects_needed_are_those_of_the_tables_of_power(effect, n):
    """G*Power's and Cohen's values for a paired t test, two-sided 5 %, power 80 %."""
    assert subjects_needed(1.0, effect) == n == subjects_needed(0.1, effect / 10)


def test_subjects_needed_keep_their_power_on_simulated_data():
    n = subjects_needed(1.0, 0.6)
    samples = np.random.default_rng(0).normal(0.6, 1, (4_000, n))
    assert np.mean(stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


def test_subjects_needed_for_next_to_nothing():
    assert subjects_needed(0.0, 0.01) == 2 and subjects_needed(1.0, 0.0) is None
    exact, normal = subjects_needed(1.0, 0.0885), subjects_needed(1.0, 0.0887)
    assert 0 <= exact - normal <= 6  # where the approximation takes over there is no jump


@pytest.mark.parametrize("effect", [0.08, 0.05, 0.02])
def test_thousands_of_subjects_are_no_more_and_no_fewer_than_needed(effect):
    def power(n):
        return stats.nct.sf(stats.t.ppf(0.975, n - 1), n - 1, effect * n**0.5)

    n = subjects_needed(1.0, effect)
    assert power(n - 2) < 0.8 <= power(n)


@pytest.mark.parametrize("subjects", [14, 8])
@pytest.mark.parametrize("shape", ["normal", "heavy", "skewed"])
def test_t_intervals_cover_the_truth_in_the_designs_used(subjects, shape):
    """1,000 comparisons of 14 or 8 subjects × 2 training seeds: the 95 % interval holds the truth in 93 to 97 %."""
    random = np.random.default_rng(1)
    size = (1_000, subjects, 1)
    effect = {
        "normal": random.normal(0, 0.05, size),
        "heavy": 0.04 * random.standard_t(5, size),
        "skewed": 0.02 * (random.gamma(4, 1, size) - 4),
    }[shape]
    runs = -0.03 + effect + random.normal(0, 0.03, (1_000, subjects, 2))
    low, high = t_interval(runs.mean(axis=2))
    assert 0.93 <= np.mean((low < -0.03) & (high > -0.03)) <= 0.97


@pytest.mark.parametrize("subjects", [14, 8])
def test_sign_flip_test_errs_as_often_as_it_says(subjects):
    random = np.random.default_rng(2)
    p = np.array([sign_flip_test(random.standard_t(4, subjects)) for _ in range(1_000)])
    assert 0.03 <= np.mean(p <= 0.05) <= 0.07
