"""Settings taken from an earlier comparison: what they were tuned on is not compared on."""

import pytest
from helpers.comparisons import simulated
from helpers.grids import make_subjects

from symdream.bench.analysis import analyse
from symdream.bench.grid import build, compared_subjects, subjects_of
from symdream.bench.results import write_results
from symdream.bench.sections import tuning_section
from symdream.bench.settings import read_settings, without_tuned
from symdream.errors import Problems


@pytest.fixture
def tuned(tmp_path):
    """A comparison of two arms that was tuned on beta, which its prompts.toml does not mark."""
    content, _ = simulated({}, subjects=1, methods=("lora", "singlora"), match="rank")
    content["tuning"] = [trial | {"subject": "beta"} for trial in content["tuning"]]
    write_results(tmp_path, content)
    return tmp_path


def test_the_subjects_of_the_trials_are_left_out_of_a_grid_that_does_not_tune(tuned, tmp_path):
    grid = build({"data": make_subjects(tmp_path / "data"), "tune": False})
    subjects = subjects_of(grid)
    assert compared_subjects(grid, subjects) == ["alpha", "beta"]
    left = without_tuned(grid, read_settings(tuned))
    assert compared_subjects(left, subjects) == ["alpha"] and not left.tune
    begun = without_tuned(grid, read_settings(tuned), {"beta"})  # cells of it are finished, and the report says so
    assert compared_subjects(begun, subjects) == ["alpha", "beta"]


def test_a_subject_of_the_trials_cannot_be_asked_for(tuned, tmp_path):
    grid = build({"data": make_subjects(tmp_path / "data"), "tune": False, "subjects": ["alpha", "beta"]})
    with pytest.raises(Problems, match="subjects = beta +is left out, as the settings were tuned on it"):
        without_tuned(grid, read_settings(tuned))


def test_settings_tuned_on_subjects_that_are_not_here_leave_none_out(tuned):
    grid = build({}, "sprite")
    assert len(compared_subjects(without_tuned(grid, read_settings(tuned)), subjects_of(grid))) == 14


def test_settings_that_were_taken_themselves_tell_where_they_were_tuned(tuned):
    content, _ = simulated({}, subjects=1)
    assert read_settings(tuned).under == {
        "protocol": content["grid"]["protocol"], "steps": 120, "batch_size": 2, "base": "sprite",
    }  # fmt: skip
    content["grid"]["tuned_under"] = {"protocol": "another", "steps": 7, "batch_size": 1, "base": "sd15"}
    write_results(tuned, content)
    assert read_settings(tuned).under["steps"] == 7


def test_the_report_tells_which_tuning_subjects_are_compared_on():
    content, rows = simulated({}, subjects=2)
    content |= analyse(content, rows)
    labels = {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}
    names = list(dict.fromkeys(trial["subject"] for trial in content["tuning"]))
    assert "which the comparison leaves out" in tuning_section(content, labels)["tuning_told"]
    content["grid"]["subjects"] = [*content["grid"]["subjects"], names[0]]
    assert f"of which it compares {names[0]} too" in tuning_section(content, labels)["tuning_told"]
