"""What others compute, to hold symdream's own against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats


def permutation_p(values: Sequence[float], alternative: str) -> float:
    """scipy's p of "the values are symmetric about 0", over all assignments of signs."""
    return stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative, vectorized=True
    ).pvalue
