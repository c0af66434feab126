"""What the cells of a grid are trained with: as the grid asks."""

import pytest
from helpers.grids import make_subjects, tiny_grid

from symdream.bench.arms import make_arms
from symdream.bench.cells import Settings, grid_cells
from symdream.bench.grid import build
from symdream.bench.runs import run_cell
from symdream.bench.workshop import Workshop
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
        assert run_cell(workshop, cell)["cell"]["status"] == "finished"
        run, own = read_toml(tmp_path / "cells" / cell.id / "config.toml"), settings[cell.arm]
        assert cell.id == f"{cell.arm}-alpha-s{seed}"
        assert (run["training"]["seed"], run["adapter"]["alpha"]) == (seed, own.alpha)
        assert (run["training"]["lr"], run["training"]["text_encoder_lr"]) == (own.lr, own.text_encoder_lr)
    assert (first.arm, last.arm) == ("lora-r2", "singlora-r2")
