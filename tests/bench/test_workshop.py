"""What the cells of a grid are trained with, and how its reference pictures are drawn: as the grid asks."""

import numpy as np
import pytest
from helpers.grids import make_subjects, tiny_grid
from PIL import Image

from symdream.bench.arms import make_arms
from symdream.bench.cells import Settings, grid_cells
from symdream.bench.grid import build
from symdream.bench.tuning import first_trials, trial_cells
from symdream.bench.workshop import Workshop
from symdream.diffusion.sampling import sample
from symdream.settings import read_toml


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_subjects(tmp_path_factory.mktemp("subjects"))


def test_every_cell_is_trained_with_its_own_seed_and_settings(tiny_sd1, data, tmp_path):
    settings = {"lora-r2": Settings(3e-3, 2e-3, 4.0), "singlora-r2": Settings(5e-4, 7e-4, 1.0)}
    few = {"subjects": ["alpha"], "image_seeds": [0], "prompts_per_subject": 1, "steps": 2, "points": 1}
    grid = build(tiny_grid(tiny_sd1, data, training_seeds=[3, 5], drift_pictures=0, **few))
    workshop = Workshop(grid, tmp_path)
    arms = make_arms(grid, workshop.base)
    first, *_, last = grid_cells(grid, arms, ["alpha"], workshop.subjects, settings, "protocol")
    for cell, seed in ((first, 3), (last, 5)):
        assert workshop.run_cell(cell)["cell"]["status"] == "finished"
        run, own = read_toml(tmp_path / "cells" / cell.id / "config.toml"), settings[cell.arm]
        assert cell.id == f"{cell.arm}-alpha-s{seed}"
        assert (run["training"]["seed"], run["adapter"]["alpha"]) == (seed, own.alpha)
        assert (run["training"]["lr"], run["training"]["text_encoder_lr"]) == (own.lr, own.text_encoder_lr)
    assert (first.arm, last.arm) == ("lora-r2", "singlora-r2")


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
    workshop.reference("alpha")
    found = drawn(tmp_path / "references" / "alpha" / "base")
    assert list(found) == ["00-0.png", "00-1.png", "01-0.png", "01-1.png"]
    expected = sample(workshop.base, [red, red, blue, blue], [0, 1, 0, 1], **how)
    assert_same_pictures(found, expected)
    for other in ({"sampler": another}, {"guidance": workshop.base.defaults["guidance"]}):
        [apart] = sample(workshop.base, [red], [0], **how | other)
        with pytest.raises(AssertionError, match="00-0.png"):
            assert_same_pictures({"00-0.png": found["00-0.png"]}, [apart])

    workshop.class_pictures("alpha", tmp_path / "class")
    found = drawn(tmp_path / "class")
    assert list(found) == ["00-0.png", "01-0.png", "02-1.png"]
    texts = [text.replace("sks ", "") for text in (red, blue, red)]
    assert_same_pictures(found, sample(workshop.base, texts, [0, 0, 1], **how))


def test_tuning_never_sees_the_prompts_of_the_report(tiny_sd1, data, tmp_path):
    grid = build(tiny_grid(tiny_sd1, data, tune=True, image_seeds=[0]))
    workshop = Workshop(grid, tmp_path)
    tuned = {row["prompt"] for row in workshop.reference("gamma", tuning=True)["rows"]}
    arm, *_ = make_arms(grid, workshop.base)
    for trial in first_trials(arm.id, grid):
        for cell in trial_cells(trial, arm, grid, ["gamma"], workshop.subjects, "", embedded=True):
            tuned |= set(cell.prompts)
    assert tuned == {"a {subject} on a green background"}
    held_out = {f"a {{subject}} on a {colour} background" for colour in ("red", "blue")}
    assert {row["prompt"] for row in workshop.reference("gamma")["rows"]} == held_out
