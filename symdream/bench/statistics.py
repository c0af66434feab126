"""Statistics of paired differences: one number d_i for each subject, and what may be said of their mean.

Nothing here knows of grids or files. Two-sided level 0.05, one-sided 0.025.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.05
BOOTSTRAP_FROM = 20  # subjects; below, percentiles of resampled means are too narrow
EXACT_UP_TO = 40  # subjects whose 2^n sign flips are all counted
SAMPLED_FLIPS = 200_000
POWER = 0.8
MOST_SUBJECTS = 10_000_000

BETTER, NON_INFERIOR, INFERIOR, UNDECIDED = "better", "non-inferior", "inferior", "undecided"


def t_interval(values: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """The 1 - level confidence interval of the mean along the last axis, mean ± t(n-1) · sd / sqrt n.

    values (..., n) -> low (...), high (...); NaN for n < 2.
    """
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    n, mean = values.shape[-1], values.mean(axis=-1)
    if n < 2:
        return np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    half = stats.t.ppf(1 - level / 2, n - 1) * values.std(axis=-1, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


def t_test(values: Sequence[float]) -> float | None:
    """Two-sided p of Student's one-sample t test against 0; None for n < 2 or no spread beyond rounding."""
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or np.ptp(values) <= 1e-9 * np.abs(values).max():
        return None
    return float(stats.ttest_1samp(values, 0).pvalue)


def sign_flip_test(values: Sequence[float], side: str = "both") -> float:
    """p of the sign-flip test of "the differences are symmetric about 0", with the sum as its statistic.

    Fisher's randomisation test for pairs: the share of all 2^n assignments of signs whose sum is as extreme as the
    one observed, ties included. side: "both" (|sum|), "above" (H1: mean > 0) or "below". Exact up to EXACT_UP_TO
    values: the sums of the two halves are counted against each other (meet in the middle); beyond, from
    SAMPLED_FLIPS random assignments with a fixed seed, (k + 1) / (N + 1).
    """
    values = np.asarray(values, dtype=np.float64)
    values = -values if side == "below" else values
    observed = abs(values.sum()) if side == "both" else values.sum()
    # Sums in another order differ by rounding: what is equal in exact arithmetic must count as equal.
    observed -= 1e-9 * np.abs(values).sum()
    if len(values) > EXACT_UP_TO:
        return _sampled(values, observed, side)
    left, right = _signed_sums(values[::2]), np.sort(_signed_sums(values[1::2]))
    above = len(left) * len(right) - np.searchsorted(right, observed - left, side="left").sum()
    share = above / (len(left) * len(right))
    return float(min(1.0, share * (2 if side == "both" else 1)))


def _signed_sums(values: np.ndarray) -> np.ndarray:
    """All 2^n sums of ± values."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _sampled(values: np.ndarray, observed: float, side: str) -> float:
    random = np.random.default_rng(0)
    above = 0
    for _ in range(SAMPLED_FLIPS // 10_000):
        sums = random.choice([-1.0, 1.0], size=(10_000, len(values))) @ values
        above += int(((np.abs(sums) if side == "both" else sums) >= observed).sum())
    return (above + 1) / (SAMPLED_FLIPS + 1)


def smallest_p(n: int, side: str = "both") -> float:
    """The least p that the sign-flip test of n subjects can give, however large the effect."""
    if n > EXACT_UP_TO:
        return 1 / (SAMPLED_FLIPS + 1)
    return min(1.0, (2 if side == "both" else 1) / 2**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979): p_(i) -> max over j <= i of min(1, (m - j + 1) p_(j)), in the given order."""
    order = np.argsort(p_values, kind="stable")
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = float(largest)
    return corrected


def bootstrap_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """BCa bootstrap interval of the mean over subjects; None for fewer than BOOTSTRAP_FROM of them."""
    from scipy import stats

    values = np.asarray(values, dtype=np.float64)
    if len(values) < BOOTSTRAP_FROM or not values.std() > 0:
        return None
    found = stats.bootstrap(
        (values,), np.mean, confidence_level=1 - level, n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def verdict(
    low: float, high: float, margin: float, p_above_zero: float, p_above_margin: float, p_below_margin: float
) -> str:
    """What the differences say of "at most `margin` worse".

        better        the interval lies above 0,         and p of mean > 0       is below 0.025
        non-inferior  the interval lies above -margin,   and p of mean > -margin is below 0.025
        inferior      the interval lies below -margin,   and p of mean < -margin is below 0.025
        undecided     otherwise

    low, high: the two-sided 95 % t interval. The p-values are one-sided sign-flip tests, Holm-corrected where the
    comparison is one of a family. Both must agree, so that neither normality nor symmetry alone decides.
    """
    if low > 0 and p_above_zero < LEVEL / 2:
        return BETTER
    if low > -margin and p_above_margin < LEVEL / 2:
        return NON_INFERIOR
    if high < -margin and p_below_margin < LEVEL / 2:
        return INFERIOR
    return UNDECIDED


def subjects_needed(sd: float, delta: float, power: float = POWER, level: float = LEVEL) -> int | None:
    """How many subjects tell a mean difference `delta` from 0 with this power, by a paired two-sided t test.

        power = P(T > t(1 - level/2, n-1)),   T ~ noncentral t(n-1, delta / sd · sqrt n)

    The same number shows non-inferiority by a margin delta where the two are in truth equal. sd: of the subjects'
    differences, with as many seeds and pictures a subject as were used. None beyond MOST_SUBJECTS.
    """
    from scipy import stats

    if sd <= 0:
        return 2
    effect = abs(delta) / sd
    normal = (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power)) / effect if effect > 0 else math.inf
    if normal**2 > MOST_SUBJECTS:
        return None
    if normal**2 > 1_000:  # there Student's t is the normal to within two subjects
        return math.ceil(normal**2 + 2)

    def reached(n: int) -> bool:
        bound = stats.t.ppf(1 - level / 2, n - 1)
        return stats.nct.sf(bound, n - 1, effect * math.sqrt(n)) >= power

    n = max(2, math.floor(normal**2))
    while not reached(n):
        n += 1
    return n
