"""Shards that are joined: only those of one grid, and nothing that is finished is lost."""

import pytest
from helpers.comparisons import simulated, unfinish

from symdream.bench.grid import Grid
from symdream.bench.merge import merge_folders
from symdream.bench.results import read_results, write_results, write_rows
from symdream.config import read_toml
from symdream.errors import RequestError


def shards(tmp_path, change=None, **told):
    """Two folders, each with a half of a comparison of two arms, three subjects and one seed; `change` is the second's
    grid, and `told` what both of theirs say besides."""
    content, rows = simulated({}, subjects=3, seeds=1, methods=("lora", "singlora"), match="rank")
    content["grid"] |= told
    ids = [cell["id"] for cell in content["cells"]]
    for name, lacking, changed in (("a", ids[::2], {}), ("b", ids[1::2], change or {})):
        part, lines = unfinish(content, rows, *lacking)
        (tmp_path / name).mkdir()
        write_results(tmp_path / name, part | {"grid": part["grid"] | changed})
        write_rows(tmp_path / name, lines)
    return [tmp_path / "a", tmp_path / "b"]


CONFIG = {"drift_pictures": 2, "only_last_in_full": False}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": "another"}, "steps, sampling, base"),
        ({"image_seeds": [1]}, r"image_seeds \[1\], not \[0, 1\]"),
        ({"checkpoints": [4]}, "checkpoints"),
        ({"margin_fraction": 0.05}, "margin_fraction 0.05, not 0.02"),
        ({"config": CONFIG | {"drift_pictures": 9}}, "drift_pictures 9, not 2"),
        ({"config": CONFIG | {"only_last_in_full": True}}, "only_last_in_full"),
        ({"prompts": {"subject-01": ["a {subject}"]}}, "prompts of subject-01"),
        ({"photos": {"subject-00": "1", "subject-01": "9"}}, "other photos, .* of subject-01"),
    ],
)
def test_different_grids_are_not_merged_and_told_apart(tmp_path, change, told):
    parts = shards(tmp_path, change, photos={"subject-00": "1", "subject-01": "2"}, config=CONFIG)
    with pytest.raises(RequestError, match=f"different grids: the former has .*{told}"):
        merge_folders(parts, tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def test_the_whole_knows_the_photos_of_every_part(tmp_path):
    parts = shards(tmp_path, {"photos": {"subject-01": "2"}}, photos={"subject-00": "1"})
    merge_folders(parts, tmp_path / "whole")
    assert read_results(tmp_path / "whole")["grid"]["photos"] == {"subject-00": "1", "subject-01": "2"}


def config(**changes):
    return Grid(prompts_per_subject=4, **changes).model_dump(mode="json")


def test_the_merged_grid_asks_for_all_that_was_merged(tmp_path, capsys):
    parts = shards(
        tmp_path,
        {"training_seeds": [1], "subjects": ["owl"],
         "config": config(methods=["dora"], training_seeds=[1], subjects=["owl"])},
        subjects=["fox"], config=config(methods=["lora", "singlora"], subjects=["fox"]),
    )  # fmt: skip
    merge_folders(parts, tmp_path / "whole")
    grid = read_toml(tmp_path / "whole" / "grid.toml")
    assert grid["methods"] == ["lora", "singlora", "dora"] and grid["match"] == "rank"
    assert grid["training_seeds"] == [0, 1] and grid["subjects"] == ["fox", "owl"]
    assert read_results(tmp_path / "whole")["grid"]["config"]["subjects"] == ["fox", "owl"]
    assert "every combination" not in capsys.readouterr().err


def test_arms_that_no_grid_has_are_told(tmp_path, capsys):
    parts = shards(
        tmp_path, {"config": config(methods=["dora"], ranks=[4], match="parameters")}, config=config(methods=["lora"])
    )
    merge_folders(parts, tmp_path / "whole")
    grid = read_toml(tmp_path / "whole" / "grid.toml")
    assert (grid["methods"], grid["ranks"], grid["match"], grid["subjects"]) == (["lora", "dora"], [8, 4], "both", [])
    assert "differ in methods and ranks and match" in capsys.readouterr().err
