"""References are drawn as the grid asks, and are of the base and the photos at hand."""

import numpy as np
import pytest
from helpers.grids import make_subjects, tiny_grid
from PIL import Image

from symdream.bench.arms import make_arms
from symdream.bench.grid import build
from symdream.bench.references import class_pictures, reference, take_references
from symdream.bench.tuning import first_trials, trial_cells
from symdream.bench.workshop import Workshop
from symdream.diffusion.sampling import sample
from symdream.errors import RequestError, WorkError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_subjects(tmp_path_factory.mktemp("subjects"))


def drawn(folder):
    return {path.name: Image.open(path).convert("RGB") for path in sorted(folder.glob("*.png"))}


def assert_same_pictures(found, expected):
    assert len(found) == len(expected)
    for name, image in zip(found, expected, strict=True):
        assert np.abs(np.asarray(found[name], int) - np.asarray(image, int)).max() <= 1, name


@pytest.mark.parametrize(("sampler", "another"), [("dpm++", "base"), ("euler", "dpm++")])
def test_references_and_class_pictures_are_drawn_as_the_grid_asks(tiny_sd1, data, tmp_path, sampler, another):
    asked = {"sampler": sampler, "sampling_steps": 3, "guidance": 30.0, "drift_pictures": 3}
    workshop = Workshop(build(tiny_grid(tiny_sd1, data, **asked)), tmp_path)
    how = {"sampler": sampler, "steps": 3, "guidance": 30.0}
    red, blue = (f"a sks toy on a {colour} background" for colour in ("red", "blue"))
    reference(workshop, "alpha")
    found = drawn(tmp_path / "references" / "alpha" / "base")
    assert list(found) == ["00-0.png", "00-1.png", "01-0.png", "01-1.png"]
    expected = sample(workshop.base, [red, red, blue, blue], [0, 1, 0, 1], **how)
    assert_same_pictures(found, expected)
    for other in ({"sampler": another}, {"guidance": workshop.base.defaults["guidance"]}):
        [apart] = sample(workshop.base, [red], [0], **how | other)
        with pytest.raises(AssertionError, match="00-0.png"):
            assert_same_pictures({"00-0.png": found["00-0.png"]}, [apart])

    class_pictures(workshop, "alpha", tmp_path / "class")
    found = drawn(tmp_path / "class")
    assert list(found) == ["00-0.png", "01-0.png", "02-1.png"]
    texts = [text.replace("sks ", "") for text in (red, blue, red)]
    assert_same_pictures(found, sample(workshop.base, texts, [0, 0, 1], **how))


def test_tuning_never_sees_the_prompts_of_the_report(tiny_sd1, data, tmp_path):
    grid = build(tiny_grid(tiny_sd1, data, tune=True, image_seeds=[0]))
    workshop = Workshop(grid, tmp_path)
    tuned = {row["prompt"] for row in reference(workshop, "gamma", tuning=True)["rows"]}
    arm, *_ = make_arms(grid, workshop.base)
    for trial in first_trials(arm.id, grid):
        for cell in trial_cells(trial, arm, grid, ["gamma"], workshop.subjects, "", embedded=True):
            tuned |= set(cell.prompts)
    assert tuned == {"a {subject} on a green background"}
    held_out = {f"a {{subject}} on a {colour} background" for colour in ("red", "blue")}
    assert {row["prompt"] for row in reference(workshop, "gamma")["rows"]} == held_out


def test_references_are_of_the_base_and_the_photos_at_hand(tiny_sd1, data, tmp_path):
    workshop = Workshop(build(tiny_grid(tiny_sd1, data)), tmp_path)
    first = reference(workshop, "alpha")
    assert reference(workshop, "alpha") == first
    vars(workshop.base)["hash"] = "another"  # as if its weights had changed
    assert reference(workshop, "alpha")["asked"] != first["asked"]


def test_what_went_wrong_with_references_is_told_on_one_line():
    error = RequestError("No encoder /no/such.", where="there", fix="name another")
    with pytest.raises(WorkError) as caught:
        take_references(["owl"], [], lambda tasks: iter([(0, error)]))
    assert caught.value.what == "The references of owl failed: No encoder /no/such. (name another)."
