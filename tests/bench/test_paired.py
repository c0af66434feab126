"""One comparison described, and the verdicts of a family of them."""

import numpy as np
import pytest
from helpers.comparisons import simulated, unfinish
from helpers.oracles import permutation_p

from symdream.bench.analysis import analyse
from symdream.bench.comparisons import PRIMARY
from symdream.bench.paired import SIDES, correct, describe, judge
from symdream.bench.statistics import BETTER, INFERIOR, NON_INFERIOR, UNDECIDED, holm


@pytest.mark.parametrize("values", [[0.01, -0.012, 0.02, 0.005], [-0.05, 0.03, -0.024, -0.06, 0.011, -0.018]])
@pytest.mark.parametrize(
    ("side", "shift", "alternative"),
    [("above_zero", 0, "greater"), ("above_margin", 0.02, "greater"), ("below_margin", 0.02, "less")],
)
def test_each_side_is_the_permutation_test_of_its_hypothesis(values, side, shift, alternative):
    expected = permutation_p(np.array(values) + shift, alternative)
    assert describe(values, 0.02)["p_one_sided"][side] == pytest.approx(expected)


def test_subjects_needed_are_told_for_the_margin_and_for_the_papers_difference():
    """G*Power's for effects of .02 and .008 where the subjects' standard deviation is .04."""
    assert describe([-0.04, 0.0, 0.04], 0.02)["subjects_needed"] == {"margin": 34, "paper": 199}


@pytest.mark.parametrize(
    ("least", "most", "alone"), [(0.03, 0.05, BETTER), (-0.01, 0.008, NON_INFERIOR), (-0.1, -0.06, INFERIOR)]
)
def test_what_one_comparison_shows_alone_it_may_not_show_among_four(least, most, alone):
    """Seven subjects on one side: p = 1/128 is below .025, four times that is not."""

    def verdicts(size):
        family = [describe(np.linspace(least, most, 7).tolist(), 0.02) for _ in range(size)]
        correct(family)
        return [judge(one) for one in family]

    assert verdicts(1) == [alone] and verdicts(4) == [UNDECIDED] * 4


@pytest.mark.parametrize("without", [None, "dora-r8"])
def test_every_p_of_the_family_is_corrected_for_four_comparisons(without):
    """One arm without a finished cell makes the others no more significant: it counts with p = 1."""
    content, rows = simulated({"singlora-r8": -0.03, "loraplus-r8": -0.06}, subjects=8)
    content, rows = unfinish(content, rows, *[c["id"] for c in content["cells"] if c["arm"] == without])
    family = [e for e in analyse(content, rows)["paired"] if e["family"] == PRIMARY and e["against"] != without]
    raw = [describe(list(e["subjects"].values()), e["margin"]) for e in family]

    def corrected(p_values):
        missing = [1.0] * (4 - len(family))
        return pytest.approx(holm(p_values + missing)[: len(family)], rel=1e-5)

    assert [e["p_holm"] for e in family] == corrected([e["p"] for e in raw])
    for side in SIDES:
        assert [e["p_one_sided"][side] for e in family] == corrected([e["p_one_sided"][side] for e in raw])
