"""Whole results analysed: known effects are found, missing cells are told, the family is the one fixed before."""

import json

import numpy as np
import pytest
from helpers.comparisons import simulated, unfinish
from scipy import stats

from symdream.bench.analysis import analyse
from symdream.bench.comparisons import (
    ENDPOINTS,
    MATCHED,
    MATCHED_ALONE,
    PRIMARY,
    Comparison,
    difference,
    primary_pairs,
    volume_of,
)
from symdream.bench.paired import NO_COMMON, NOT_FINISHED, subject_differences
from symdream.bench.statistics import t_interval
from symdream.bench.wording import dropped_told, headline, warnings


@pytest.fixture(scope="module")
def plain():
    """Fourteen subjects; SingLoRA at rank 8 in truth 0.06 below LoRA, at rank 16 equal to it."""
    content, rows = simulated({"singlora-r8": -0.06}, noise=0.03)
    return content, analyse(content, rows)


def entry(found, endpoint, arm, against):
    [one] = [e for e in found["paired"] if (e["endpoint"], e["arm"], e["against"]) == (endpoint, arm, against)]
    return one


def test_the_primary_family_is_singlora_at_half_the_parameters(plain):
    content, found = plain
    family = [e for e in found["paired"] if e["family"] == PRIMARY]
    assert [(e["arm"], e["against"]) for e in family] == [
        ("singlora-r8", other) for other in ("lora-r8", "loraplus-r8", "dora-r8", "symlora-r8")
    ]
    assert {e["endpoint"] for e in family} == {MATCHED} == {content["grid"]["primary"]["endpoint"]}
    assert found["paired"][:4] == family
    # Seven arms: every pair once, by every endpoint.
    assert len(found["paired"]) == 21 * len(ENDPOINTS)
    assert all(e["p_holm"] is None for e in found["paired"][4:])


def test_a_known_effect_is_found_with_its_interval(plain):
    _, found = plain
    one = entry(found, MATCHED, "singlora-r8", "lora-r8")
    assert one["low"] < -0.06 < one["high"] and one["verdict"] == "inferior"
    assert one["n"] == 14 and one["pairs"] == 28 and not any(one["dropped"].values())
    assert one["margin"] == pytest.approx(0.02) and one["bootstrap"] is None
    assert one["smallest_p"] == pytest.approx(2 / 2**14, rel=1e-5) and one["p"] == one["smallest_p"]
    assert one["p_holm"] >= one["p"]
    values = list(one["subjects"].values())
    assert one["mean"] == pytest.approx(np.mean(values), rel=1e-4)
    assert one["p_t"] == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-3)


def test_the_primary_family_tells_the_least_p_that_it_could_give(plain):
    _, found = plain
    least = {"comparisons": 4, "subjects": 14, "smallest_p": 2 / 2**14, "smallest_p_holm": 8 / 2**14}
    assert found["analysis"]["primary"] == pytest.approx(least, rel=1e-5)


def test_the_table_holds_the_means_over_subjects_of_the_last_states(plain):
    content, found = plain
    for arm, row in found["analysis"]["arms"].items():
        last = [c["points"][-1]["scores"]["dino"] for c in content["cells"] if c["arm"] == arm]
        subjects = np.reshape(last, (2, 14)).mean(axis=0)  # the cells of one seed after those of the other
        low, high = t_interval(subjects)
        expected = {"mean": subjects.mean(), "low": low, "high": high, "n": 14}
        assert row["scores"]["dino"] == pytest.approx(expected, rel=1e-4)


def test_equal_methods_are_not_called_better(plain):
    _, found = plain
    one = entry(found, MATCHED, "singlora-r16", "lora-r8")
    assert one["low"] < 0 < one["high"] and one["verdict"] in ("non-inferior", "undecided")


def test_the_unit_is_the_subject_not_the_run(plain):
    content, found = plain
    cells = {c["id"]: c for c in content["cells"]}
    one = entry(found, "dino", "singlora-r8", "lora-r8")
    for name, value in one["subjects"].items():
        pairs = [[cells[f"{a}-{name}-s{s}"] for a in ("singlora-r8", "lora-r8")] for s in (0, 1)]
        assert value == pytest.approx(np.mean([difference("dino", *pair, None) for pair in pairs]), rel=1e-4)


def test_of_runs_of_other_depth_those_at_one_clip_t_are_compared():
    """LoRA walks 0.1 further: at the end its DINO is 0.1 ahead, at matched CLIP-T the methods are equal."""
    content, rows = simulated({}, depth={"lora-r8": 0.5}, noise=0.02)
    found = analyse(content, rows)
    end, matched = (entry(found, e, "singlora-r8", "lora-r8") for e in ("dino", MATCHED))
    assert end["mean"] == pytest.approx(-0.1, abs=0.01) and abs(matched["mean"]) < 0.01
    assert entry(found, "clip_t", "singlora-r8", "lora-r8")["mean"] == pytest.approx(0.1)
    assert end["verdict"] == "inferior" and matched["verdict"] == "non-inferior"


def test_pairs_without_a_common_clip_t_are_dropped_and_counted():
    """SymLoRA ends above LoRA's first checkpoint: only with the base as a state does LoRA's path hold its CLIP-T."""
    content, rows = simulated({}, depth={"symlora-r8": 0.1}, subjects=3)
    found = analyse(content, rows)
    one = entry(found, MATCHED_ALONE, "symlora-r8", "lora-r8")
    assert one["dropped"][NO_COMMON] == 6 and one["n"] == 0 and one["mean"] is None and one["verdict"] == "undecided"
    # All of SymLoRA's ended with more CLIP-T and less DINO, so that neither was ahead in both.
    assert one["dropped_ahead"] == {"ours": 0, "theirs": 0}
    assert entry(found, MATCHED, "symlora-r8", "lora-r8")["pairs"] == 6
    assert entry(found, "dino", "symlora-r8", "lora-r8")["n"] == 3


def test_of_dropped_pairs_it_is_told_which_arm_ended_ahead():
    """SymLoRA ends above the base's CLIP-T, where no other run ever was, and with more DINO than all of them."""
    content, rows = simulated({"symlora-r8": -2.0}, depth={"symlora-r8": -0.2}, subjects=3)
    found = analyse(content, rows)
    labels = {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}
    ours, theirs = entry(found, MATCHED, "symlora-r8", "lora-r8"), entry(found, MATCHED, "singlora-r8", "symlora-r8")
    assert ours["dropped_ahead"] == {"ours": 6, "theirs": 0}
    assert "in 6 of them SymLoRA r8 ended with more of both scores, in 0 LoRA r8" in dropped_told(ours, labels)
    assert theirs["dropped_ahead"] == {"ours": 0, "theirs": 6}
    assert "in 0 of them SingLoRA r8 ended with more of both scores, in 6 SymLoRA r8" in dropped_told(theirs, labels)


def test_a_run_dominates_what_lies_above_the_bases_dino():
    cell = {"points": [{"scores": {"clip_t": 0.6, "dino": 0.3}}]}
    assert volume_of(cell, {"base": {"dino": -0.2}}) == pytest.approx(0.6 * 0.5)
    assert volume_of(cell, None) is None


def test_a_partial_grid_is_analysed_and_marked():
    content, rows = simulated({}, subjects=4)
    content, rows = unfinish(content, rows, "singlora-r8-subject-00-s0", "lora-r8-subject-01-s1")
    content, rows = unfinish(content, rows, "dora-r8-subject-02-s0", status="failed", error="out of memory")
    found = analyse(content, rows)
    assert found["analysis"]["partial"]
    assert found["analysis"]["states"] == {"finished": 53, "missing": 2, "failed": 1}
    one = entry(found, MATCHED, "singlora-r8", "lora-r8")
    assert one["pairs"] == 6 and one["dropped"][NOT_FINISHED] == 2 and one["n"] == 4
    # The table's means are over what all arms have finished.
    assert found["analysis"]["blocks"] == {"count": 5, "subjects": 4, "without": []}


def test_the_references_means_are_over_the_subjects_of_the_table():
    content, rows = simulated({}, subjects=4)
    unfinished = [c["id"] for c in content["cells"] if c["arm"] == "lora-r8" and c["subject"] == "subject-00"]
    of = {name: reference["base"]["dino"] for name, reference in content["references"].items()}

    def mean(*ids):
        return analyse(*unfinish(content, rows, *ids))["analysis"]["references"]["base"]["dino"]

    assert mean(*unfinished) == pytest.approx(np.mean([of[name] for name in of if name != "subject-00"]), rel=1e-5)
    # Where no subject is finished the base is still known.
    assert mean(*[c["id"] for c in content["cells"]]) == pytest.approx(np.mean(list(of.values())), rel=1e-5)


def test_one_arm_that_failed_hides_neither_the_others_subjects_nor_the_warning():
    def without_symlora(subjects):
        content, rows = simulated({}, subjects=subjects)
        content, rows = unfinish(content, rows, *[c["id"] for c in content["cells"] if c["arm"].startswith("symlora")])
        return content | analyse(content, rows)

    many, few = without_symlora(14), without_symlora(3)
    assert many["analysis"]["primary"]["subjects"] == 14 and ", 14 subjects," in headline(many)
    against, without = headline(many).split("; not compared with ")
    assert "SymLoRA" not in against and without.startswith("SymLoRA r8, for want of a pair of runs.")
    assert not [line for line in warnings(many) if "no difference can be significant" in line]
    assert [line for line in warnings(few) if "With 3 subjects no difference can be significant" in line]


def test_an_arm_without_a_finished_cell_does_not_empty_the_table():
    content, rows = simulated({}, subjects=2)
    content, rows = unfinish(content, rows, *[c["id"] for c in content["cells"] if c["arm"] == "dora-r8"])
    analysis = analyse(content, rows)["analysis"]
    assert analysis["blocks"] == {"count": 4, "subjects": 2, "without": ["dora-r8"]}
    assert analysis["arms"]["dora-r8"] is None and analysis["arms"]["lora-r8"]["scores"]["dino"]["n"] == 2


@pytest.mark.parametrize("subjects", [0, 1])
def test_too_few_subjects_leave_everything_undecided(subjects):
    content, rows = simulated({"singlora-r8": 5.0}, subjects=1)
    if not subjects:
        content, rows = content | {"cells": []}, []
    found = analyse(content, rows)
    assert {e["verdict"] for e in found["paired"] if e["family"] == PRIMARY} == {"undecided"}
    assert found["analysis"]["primary"]["smallest_p_holm"] == 1.0
    json.dumps(found, allow_nan=False)


def test_without_ideal_pictures_the_photos_bound_the_span():
    content, rows = simulated({}, subjects=2)
    for reference in content["references"].values():
        reference["ceiling"] = None
    margin = analyse(content, rows)["analysis"]["margins"]["dino"]
    assert margin["top_is"] == "real" and margin["margin"] == pytest.approx(0.02 * (0.85 - margin["base"]), rel=1e-4)


def test_the_margin_of_an_endpoint_is_of_its_own_scores_span():
    content, rows = simulated({}, subjects=2)
    for reference in content["references"].values():
        reference["ceiling"]["dino_foreground"] = 0.5
    spans = {MATCHED: 1.0, MATCHED_ALONE: 1.0, "dino": 1.0, "clip_i": 0.4, "dino_foreground": 0.6}
    for one in analyse(content, rows)["paired"]:
        span = spans.get(one["endpoint"])
        assert one["margin"] == (span and pytest.approx(0.02 * span, rel=1e-5))
        assert (one["verdict"] is None) == (span is None)


@pytest.mark.parametrize("above", [0.0, -0.5])
def test_ideal_pictures_that_score_no_more_than_the_base_give_no_margin(above):
    content, rows = simulated({}, subjects=2)
    for reference in content["references"].values():
        reference["ceiling"]["dino"] = reference["base"]["dino"] + above
    found = analyse(content, rows)
    assert set(found["analysis"]["margins"]) == {"clip_i", "dino_foreground"}
    assert {e["verdict"] for e in found["paired"] if e["family"] == PRIMARY} == {None}


def test_a_checkpoint_that_some_run_lacks_is_not_drawn():
    """Its mean would be over other runs than those of the states beside it."""
    content, rows = simulated({}, subjects=2)
    del next(c for c in content["cells"] if c["arm"] == "lora-r8")["points"][0]
    arms = analyse(content, rows)["analysis"]["arms"]
    drawn = {arm: [state["step"] for state in arms[arm]["path"]] for arm in ("lora-r8", "dora-r8")}
    assert drawn == {"lora-r8": [80, 120], "dora-r8": [40, 80, 120]}


def test_the_path_that_is_drawn_is_the_one_that_is_compared():
    """States of one image seed are moved by what all seeds and that one differ in at the end."""
    content, rows = simulated({}, subjects=2, seeds=1, methods=("lora", "singlora"), match="rank")
    plain = analyse(content, rows)["analysis"]["arms"]["lora-r8"]["path"]
    for cell in content["cells"]:
        last = cell["points"][-1]["scores"]
        cell["points"][-1]["first_seed"] = last | {"dino": last["dino"] - 0.25, "clip_t": last["clip_t"] + 0.125}
    moved = analyse(content, rows)["analysis"]["arms"]["lora-r8"]["path"]
    assert moved[-1] == plain[-1] and len(moved) == 3
    for after, before in zip(moved[:-1], plain[:-1], strict=True):
        assert after["step"] == before["step"]
        assert after["dino"] == pytest.approx(before["dino"] + 0.25)
        assert after["clip_t"] == pytest.approx(before["clip_t"] - 0.125)


def test_a_method_that_is_not_in_the_grid_is_not_in_the_family():
    content, _ = simulated({}, subjects=1, methods=("lora", "singlora"), match="rank")
    assert primary_pairs(content["grid"]) == [("singlora-r8", "lora-r8")]
    content, rows = simulated({}, subjects=1, methods=("lora", "symlora"), match="rank")
    assert primary_pairs(content["grid"]) == []
    assert analyse(content, rows)["analysis"]["primary"]["comparisons"] == 0


def test_variance_components_know_that_differences_lose_the_subject(plain):
    _, found = plain
    of = {(v["arm"], v["against"]): v for v in found["analysis"]["variance"]}
    alone, paired = of["lora-r8", None], of["singlora-r8", "lora-r8"]
    assert alone["shape"] == [14, 2, 4, 2] and alone["components"]["subject"] > 0.003
    assert abs(paired["components"]["subject"]) < 0.001
    assert paired["components"]["residual"] == pytest.approx(2 * 0.03**2, rel=0.4)


def test_variance_components_are_of_the_last_states_in_whatever_order_the_pictures_come():
    content, rows = simulated({}, subjects=3)
    last = [row for row in rows if row["step"] == 120]
    expected = analyse(content, last)["analysis"]["variance"]
    assert expected and analyse(content, rows[::-1])["analysis"]["variance"] == expected


def test_coverage_from_cells_to_intervals():
    """1,000 comparisons (250 small grids of four pairs): the truth lies in 93 to 97 % of the primary intervals."""
    truth = {"lora-r8": 0.0, "loraplus-r8": -0.02, "dora-r8": 0.01, "symlora-r8": 0.03}
    inside = 0
    for random in range(250):
        content, _ = simulated(
            truth | {"singlora-r8": -0.01}, subjects=8, prompts=1, image_seeds=1, random=random, match="rank",
            pictures=False,
        )  # fmt: skip
        cells = {(c["arm"], c["subject"], c["seed"]): c for c in content["cells"]}
        for pair in primary_pairs(content["grid"]):
            subjects, _ = subject_differences(content, Comparison(*pair, PRIMARY), MATCHED, cells)
            low, high = t_interval(list(subjects.values()))
            inside += low < -0.01 - truth[pair[1]] < high
    assert 930 <= inside <= 970
