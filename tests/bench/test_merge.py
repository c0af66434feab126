"""Shards that are joined: only those of one grid, and nothing that is finished is lost."""

import shutil
import tempfile
from pathlib import Path

import pytest
from helpers.comparisons import simulated, unfinish

from symdream.bench.cells import write_done
from symdream.bench.grid import GRID_FILE, Grid
from symdream.bench.lock import locked
from symdream.bench.merge import merge_folders
from symdream.bench.results import SCORES, read_results, write_results, write_rows
from symdream.errors import RequestError, WorkError
from symdream.settings import read_toml


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


def test_merged_scores_are_those_of_the_whole_and_each_comes_once(tmp_path):
    """Both folders hold the references and the third cell; of what two hold, the first folder's is taken."""
    content, rows = simulated({}, subjects=2, seeds=1, methods=("lora", "singlora", "symlora"), match="rank")
    references = [
        row | {"cell": None, "arm": "base", "method": None, "rank": None, "training_seed": None, "step": None}
        for row in rows
        if row["arm"] == "lora-r8" and row["step"] == 40
    ]
    ids = [cell["id"] for cell in content["cells"]]
    for name, lacking in (("whole", []), ("a", ids[3:]), ("b", ids[:2])):
        part, lines = unfinish(content, rows, *lacking)
        (tmp_path / name).mkdir()
        if name == "b":
            part["cells"] = [cell | {"seconds": 7.0} for cell in part["cells"]]
            part["references"] = dict.fromkeys(part["references"], {"base": None})
            lines = [row | {"dino": 0.5} if row["cell"] == ids[2] else row for row in lines]
        write_results(tmp_path / name, part)
        write_rows(tmp_path / name, references + lines)
    merge_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "merged")
    assert (tmp_path / "merged" / SCORES).read_text() == (tmp_path / "whole" / SCORES).read_text()
    merged = read_results(tmp_path / "merged")
    assert merged["references"] == content["references"]
    seconds = {cell["id"]: cell["seconds"] for cell in merged["cells"]}
    assert seconds == dict.fromkeys(ids[:3], 100.0) | dict.fromkeys(ids[3:], 7.0)


def test_the_whole_is_complete_only_with_every_cell(tmp_path):
    first, second = shards(tmp_path)
    content = read_results(second)
    [lost, *_] = [cell["id"] for cell in content["cells"] if cell["status"] == "finished"]
    write_results(second, unfinish(content, [], lost)[0])
    assert not merge_folders([first, second], tmp_path / "whole")["complete"]
    merged = read_results(tmp_path / "whole")
    assert not merged["complete"]
    assert [cell["id"] for cell in merged["cells"] if cell["status"] != "finished"] == [lost]


def test_the_whole_has_the_reference_pictures_of_every_part(tmp_path):
    parts = shards(tmp_path)
    for part, names in zip(parts, (("subject-00", "subject-01"), ("subject-01", "subject-02")), strict=True):
        for name in names:
            place = part / "references" / name / "base"
            place.mkdir(parents=True)
            (place / "00-0.png").write_text(f"{name} of {part.name}")
    merge_folders(parts, tmp_path / "whole")
    pictures = (tmp_path / "whole" / "references").glob("*/base/00-0.png")
    assert {path.read_text() for path in pictures} == {"subject-00 of a", "subject-01 of a", "subject-02 of b"}


def test_arms_that_were_trained_with_other_settings_are_not_merged(tmp_path):
    first, second = shards(tmp_path)
    content = read_results(second)
    content["settings"]["singlora-r8"]["lr"] = 0.5
    write_results(second, content)
    with pytest.raises(RequestError, match=r"b trained singlora-r8 with other settings than .*a: .*'lr': 0\.5"):
        merge_folders([first, second], tmp_path / "whole")
    assert not (tmp_path / "whole").exists()


def config(**changes):
    return Grid(prompts_per_subject=4, **changes).model_dump(mode="json")


def test_the_merged_grid_asks_for_all_that_was_merged(tmp_path, capsys):
    parts = shards(
        tmp_path,
        {"training_seeds": [1], "subjects": ["owl"],
         "config": config(methods=["dora"], training_seeds=[1], subjects=["owl"])},
        subjects=["fox"], config=config(methods=["lora", "singlora"], subjects=["fox"], left_out=["elk", "owl"]),
    )  # fmt: skip
    merge_folders(parts, tmp_path / "whole")
    grid = read_toml(tmp_path / "whole" / "grid.toml")
    assert grid["methods"] == ["lora", "singlora", "dora"] and grid["match"] == "rank"
    assert grid["training_seeds"] == [0, 1] and grid["subjects"] == ["fox", "owl"] and grid["left_out"] == ["elk"]
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


def lay(folder, name, *, key=None):
    """A cell's run folder in `folder`: of a run that failed, or finished with this key."""
    place = folder / "cells" / name
    place.mkdir(parents=True)
    (place / "config.toml").write_text(f"# of {folder.name}")
    if key:
        write_done(place, {"id": name, "key": key}, [])
    return place


def test_a_finished_cell_takes_the_place_of_a_failed_run(tmp_path):
    first, second = shards(tmp_path)
    cells = read_results(second)["cells"]
    failed, finished = (next(c for c in cells if c["status"] == status) for status in ("missing", "finished"))
    lay(first, finished["id"])
    lay(second, finished["id"], key=finished["key"])
    lay(second, failed["id"])  # finished in the first, whose folders are not here
    merge_folders([first, second], first)
    assert (first / "cells" / finished["id"] / "config.toml").read_text() == "# of b"
    assert not (first / "cells" / failed["id"]).exists() and read_results(first)["complete"]


def test_what_is_finished_in_the_output_is_not_lost(tmp_path):
    first, second = shards(tmp_path)
    merge_folders([first, second], tmp_path / "whole")
    with pytest.raises(RequestError, match="holds 3 finished cells that the merged folders lack: singlora-r8"):
        merge_folders([second], tmp_path / "whole")
    assert read_results(tmp_path / "whole")["complete"]
    merge_folders([second, tmp_path / "whole"], tmp_path / "whole")
    assert read_results(tmp_path / "whole")["complete"]


def test_nothing_is_merged_into_a_folder_that_a_compare_works_in(tmp_path):
    first, second = shards(tmp_path)
    before = read_results(first)
    with locked(first), pytest.raises(RequestError, match="in use by another symdream compare"):
        merge_folders([first, second], first)
    assert read_results(first) == before and not (first / GRID_FILE).exists()
    merge_folders([first, second], first)
    assert read_results(first)["complete"]


@pytest.mark.parametrize(("key", "told"), [(None, "is no cell's folder"), ("another", "holds 1 finished cell")])
def test_what_is_no_failed_run_of_the_cell_stays(tmp_path, key, told):
    first, second = shards(tmp_path)
    name = next(c["id"] for c in read_results(first)["cells"] if c["status"] == "finished")
    place = lay(tmp_path / "whole", name, key=key)
    if not key:
        (place / "config.toml").rename(place / "notes.txt")
    with pytest.raises(RequestError, match=told):
        merge_folders([first, second], tmp_path / "whole")
    assert len(list(place.iterdir())) == (2 if key else 1)


def test_references_that_a_killed_process_was_writing_are_not_merged(tmp_path):
    a, b = shards(tmp_path)
    for name in (".owl.99.tmp", "owl"):
        (a / "references" / name).mkdir(parents=True)
    merge_folders([a, b], tmp_path / "whole")
    assert [place.name for place in (tmp_path / "whole" / "references").iterdir()] == ["owl"]


def test_read_only_references_are_merged_and_the_copies_can_be_written(nobody):
    place = Path(tempfile.mkdtemp())  # not below tmp_path, which only its owner may enter
    a, b = shards(place)
    owl, copy = (folder / "references" / "owl" for folder in (a, place / "whole"))
    owl.mkdir(parents=True)
    (owl / "0.png").touch(0o444)
    owl.chmod(0o555)
    try:
        merge_folders([a, b], place / "whole")
        assert [path.name for path in copy.iterdir()] == ["0.png"]
        assert all(path.stat().st_mode & 0o200 for path in (copy, copy / "0.png"))
    finally:
        owl.chmod(0o755)
        shutil.rmtree(place)


def test_a_reference_that_cannot_be_read_is_named(tmp_path):
    a, b = shards(tmp_path)
    (a / "references" / "owl").mkdir(parents=True)
    (a / "references" / "owl" / "0.png").symlink_to("/nowhere")
    with pytest.raises(WorkError, match="Could not copy .*a/references/owl/0.png: .*No such file"):
        merge_folders([a, b], tmp_path / "whole")
    assert not list((tmp_path / "whole" / "references").iterdir())
