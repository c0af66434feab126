"""Grids that really run, on a tiny base: what is finished stays, what fails is told, shards make the same whole."""

import errno
import json
import os
import shutil
import signal
import threading
import time

import pytest
from helpers.grids import make_subjects, tiny_grid
from PIL import Image

from symdream.bench import runs
from symdream.bench.arms import make_arms
from symdream.bench.cells import Settings, grid_cells, read_done
from symdream.bench.comparisons import path_of
from symdream.bench.grid import build
from symdream.bench.lock import locked
from symdream.bench.merge import merge_folders
from symdream.bench.results import RESULTS, SCORES, read_results, read_rows, write_results
from symdream.bench.runner import Comparison
from symdream.bench.settings import Chosen, read_settings
from symdream.bench.together import run_cells
from symdream.bench.tuning import defaults
from symdream.bench.workers import Died, Workers
from symdream.bench.workshop import Workshop
from symdream.diffusion.sampling import sample
from symdream.errors import RequestError, Stopped
from symdream.files import read_json
from symdream.training import outputs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_subjects(tmp_path_factory.mktemp("subjects"))


@pytest.fixture(scope="module")
def whole(tiny_sd1, data, tmp_path_factory):
    """A finished grid of four cells; its folder and its results."""
    folder = tmp_path_factory.mktemp("grids") / "whole"
    return folder, Comparison(build(tiny_grid(tiny_sd1, data)), folder).run()


def two_files(folder, place):
    """What a comparison told, in `place` without its runs."""
    place.mkdir(exist_ok=True)
    for name in (RESULTS, SCORES):
        shutil.copy(folder / name, place)
    return place


def scores(rows):
    """What is the same whenever and wherever a cell was run."""
    return {(r["cell"], r["arm"], r["subject"], r["step"], r["prompt"], r["image_seed"]): r["dino"] for r in rows}


def cells(content):
    return {cell["id"]: cell["points"] for cell in content["cells"]}


def test_every_cell_is_an_ordinary_run_with_scores_of_its_states(whole):
    folder, content = whole
    assert content["complete"] and len(content["cells"]) == 4
    for cell in content["cells"]:
        assert cell["status"] == "finished" and [p["step"] for p in cell["points"]] == [2, 4]
        run = folder / "cells" / cell["id"]
        assert read_json(run / "state.json")["status"] == "finished"
        assert (run / "adapter" / "unet" / "adapter_model.safetensors").is_file()
        assert len(list((run / "pictures" / "step-4").glob("*.png"))) == 4
        last = cell["points"][-1]["scores"]
        assert -1 <= last["dino"] <= 1 and last["drift"] <= 1 and last["diversity"] >= 0
        assert cell["parameters"] > 0 and cell["seconds_per_step"] > 0 and cell["spectrum"]


def test_scores_csv_has_a_line_for_each_picture_and_its_means_are_the_points(whole):
    folder, content = whole
    rows = read_rows(folder)
    assert sum(row["cell"] is not None for row in rows) == 4 * 2 * 4
    assert sum(row["arm"] == "base" for row in rows) == 2 * 4 and sum(row["arm"] == "ceiling" for row in rows) == 2
    for cell in content["cells"]:
        for point in cell["points"]:
            own = [r["dino"] for r in rows if r["cell"] == cell["id"] and r["step"] == point["step"]]
            assert sum(own) / len(own) == pytest.approx(point["scores"]["dino"], abs=1e-5)


def test_all_methods_get_the_same_prompts_and_seeds(whole):
    folder, content = whole
    rows = [row for row in read_rows(folder) if row["subject"] == "alpha" and row["arm"] != "ceiling"]
    asked = {}
    for row in rows:
        asked.setdefault((row["arm"], row["step"]), set()).add((row["prompt"], row["image_seed"]))
    assert len(asked) == 1 + 2 * 2 and len({frozenset(pairs) for pairs in asked.values()}) == 1


def test_a_warm_base_gives_the_scores_of_a_fresh_one(whole, tiny_sd1, data, tmp_path):
    """The last cell, trained after three others on one base, equals the same cell trained alone."""
    _, content = whole
    last = content["cells"][-1]
    grid = build(tiny_grid(tiny_sd1, data, methods=[last["method"]], subjects=[last["subject"]]))
    alone = Comparison(grid, tmp_path / "alone").run()
    assert [cell["points"] for cell in alone["cells"]] == [last["points"]]


def test_started_again_nothing_is_done_twice(whole, tiny_sd1, data, monkeypatch):
    folder, content = whole
    before = {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/cell.json")}
    again = Comparison(build(tiny_grid(tiny_sd1, data)), folder).run()
    assert cells(again) == cells(content)
    assert {p: p.stat().st_mtime_ns for p in folder.glob("cells/*/cell.json")} == before


@pytest.mark.slow
def test_a_stopped_grid_goes_on_and_half_written_cells_are_done_again(whole, tiny_sd1, data, tmp_path, monkeypatch):
    folder, content = whole
    grid, place = build(tiny_grid(tiny_sd1, data)), tmp_path / "grid"
    first = Comparison(grid, place)
    drawn = []

    def stop_in_the_third_cell(*args, **kwargs):
        drawn.append(1)
        if len(list(place.glob("cells/*/cell.json"))) == 2:
            raise KeyboardInterrupt
        return sample(*args, **kwargs)

    monkeypatch.setattr("symdream.bench.workshop.sample", stop_in_the_third_cell)
    with pytest.raises(Stopped, match="stays finished"):
        first.run()
    monkeypatch.undo()
    done = [cell for cell in read_results(place)["cells"] if cell["status"] == "finished"]
    assert len(done) == 2
    # The third is trained but not scored; of the fourth there is half a folder.
    fourth = place / "cells" / content["cells"][3]["id"]
    fourth.mkdir()
    (fourth / "config.toml").write_text("[adapter]\nmethod = ")
    result = Comparison(grid, place).run()
    assert result["complete"] and cells(result) == cells(content)
    assert scores(read_rows(place)) == scores(read_rows(folder))


def test_a_cell_that_fails_is_told_and_the_others_go_on(whole, tiny_sd1, data, tmp_path, monkeypatch):
    train = runs.train_cell

    def fails_once(workshop, cell, place):
        if cell.id == "singlora-r2-alpha-s0":
            raise RuntimeError("the disk is made of cheese")
        return train(workshop, cell, place)

    monkeypatch.setattr(runs, "train_cell", fails_once)
    grid, place = build(tiny_grid(tiny_sd1, data, subjects=["alpha"])), tmp_path / "grid"
    result = Comparison(grid, place).run()
    states = {cell["id"]: (cell["status"], cell["error"]) for cell in result["cells"]}
    assert states["lora-r2-alpha-s0"] == ("finished", None)
    assert states["singlora-r2-alpha-s0"] == ("failed", "RuntimeError: the disk is made of cheese")
    assert not result["complete"]
    monkeypatch.undo()
    assert Comparison(grid, place).run()["complete"]


@pytest.mark.slow
def test_shards_make_the_same_whole_and_two_files_are_enough_to_go_on(whole, tiny_sd1, data, tmp_path):
    folder, content = whole
    grid = build(tiny_grid(tiny_sd1, data))
    half = Comparison(grid, tmp_path / "half", shard=(0, 2)).run()
    assert [cell["status"] for cell in half["cells"]] == ["finished"] * 2 + ["missing"] * 2
    bare = two_files(tmp_path / "half", tmp_path / "bare")
    # Another machine goes on from the two files, and works on the missing cells alone.
    found = json.loads((bare / RESULTS).read_text())
    found["environments"][0]["device"] = "another"
    (bare / RESULTS).write_text(json.dumps(found))
    result = Comparison(grid, bare).run()
    here = result["environment"]
    assert here["dtype"] == "float32" and result["environments"] == [here | {"device": "another"}, here]
    assert result["complete"] and len(list(bare.glob("cells/*/cell.json"))) == 2
    other = Comparison(grid, tmp_path / "other", shard=(1, 2)).run()
    assert sum(cell["status"] == "finished" for cell in other["cells"]) == 2
    merged = merge_folders([tmp_path / "half", tmp_path / "other"], tmp_path / "merged")
    assert merged["environments"] == [here]
    # To look at a finished comparison on another machine adds none.
    found = json.loads((tmp_path / "other" / RESULTS).read_text())
    found["environments"][0]["device"] = "another"
    (tmp_path / "other" / RESULTS).write_text(json.dumps(found))
    again = Comparison(grid, tmp_path / "other", shard=(1, 2)).run()
    assert again["environments"] == [here | {"device": "another"}]
    assert merged["complete"] and cells(merged) == cells(content) == cells(result)
    assert scores(read_rows(tmp_path / "merged")) == scores(read_rows(folder)) == scores(read_rows(bare))
    for cell in merged["cells"]:
        assert read_done(tmp_path / "merged" / "cells" / cell["id"])
    assert Comparison(grid, tmp_path / "merged").run()["complete"]


@pytest.mark.slow
def test_tuning_is_kept_and_given_on(tiny_sd1, data, tmp_path, capsys):
    flags = {"tune": True, "tuning_trials": 2, "tuning_limit": 2, "subjects": ["alpha"], "prompts_per_subject": 1}
    grid = build(tiny_grid(tiny_sd1, data, image_seeds=[0], **flags))
    tuned = Comparison(grid, tmp_path / "tuned").run(tuning_only=True)
    assert {entry["subject"] for entry in tuned["tuning"]} == {"gamma"} and tuned["cells"] == []
    for arm in ("lora-r2", "singlora-r2"):
        trials = [entry for entry in tuned["tuning"] if entry["arm"] == arm]
        assert len(trials) == 2 and sum(entry["chosen"] for entry in trials) == 1
        [chosen] = [entry for entry in trials if entry["chosen"]]
        assert chosen["objective"] == max(entry["objective"] for entry in trials)
        assert tuned["settings"][arm]["lr"] == chosen["lr"]
    # Other options tune anew, with the trials that are there; not where cells were trained with the old settings.
    again = build(tiny_grid(tiny_sd1, data, image_seeds=[0], **flags | {"tuning_trials": 1, "tuning_limit": 1}))
    two_files(tmp_path / "tuned", tmp_path)
    retuned = Comparison(again, tmp_path).run(tuning_only=True)
    assert "tuning_trials, tuning_limit before; they are tuned anew" in capsys.readouterr().err
    assert len(retuned["tuning"]) == 2
    content = read_results(tmp_path)
    write_results(tmp_path, content | {"cells": [{"id": "a", "arm": "lora-r2", "subject": "alpha", "seed": 0,
                                                  "status": "finished"}]})  # fmt: skip
    with pytest.raises(RequestError, match="other tuning_trials, tuning_limit before.*finished cells"):
        Comparison(grid, tmp_path).run(tuning_only=True)
    elsewhere = Comparison(grid, tmp_path / "elsewhere").run(read_settings(tmp_path / "tuned"))
    assert elsewhere["settings"] == tuned["settings"] and elsewhere["grid"]["tuned"]
    assert not list((tmp_path / "elsewhere").glob("cells/tune-*"))
    assert {cell["settings"]["lr"] for cell in elsewhere["cells"]} == {s["lr"] for s in tuned["settings"].values()}
    assert elsewhere["notes"] == [] and elsewhere["grid"]["tuned_under"]["protocol"] == tuned["grid"]["protocol"]
    shorter = build(tiny_grid(tiny_sd1, data, steps=2, image_seeds=[0], **flags | {"tune": False}))
    [note] = Comparison(shorter, tmp_path / "shorter").run(read_settings(tmp_path / "tuned"))["notes"]
    assert "4 steps at batch 1" in note and "here it is 2 at batch 1" in note


@pytest.mark.slow
def test_tuning_in_a_folder_of_two_files_loses_no_cell_that_is_finished(whole, tiny_sd1, data, tmp_path):
    folder, content = whole
    two_files(folder, tmp_path)
    grid = build(tiny_grid(tiny_sd1, data, tune=True, tuning_trials=1, tuning_limit=1))
    tuned = Comparison(grid, tmp_path).run(tuning_only=True)
    assert tuned["tuning"] and cells(tuned) == cells(content)
    assert scores(read_rows(tmp_path)) == scores(read_rows(folder))


def test_other_photos_under_the_old_name_are_refused(whole, tiny_sd1, data, tmp_path):
    folder, _ = whole
    shutil.copytree(data, tmp_path / "data")
    place = two_files(folder, tmp_path / "grid")
    shutil.copy(tmp_path / "data" / "gamma" / "00.png", tmp_path / "data" / "beta" / "00.png")
    with pytest.raises(RequestError, match="other photos, or another class noun, of beta"):
        Comparison(build(tiny_grid(tiny_sd1, tmp_path / "data")), place).run()


@pytest.mark.parametrize("name", ["00.txt", "00_mask.png", "ideal/00.png", "masks/00.png"])
def test_other_files_beside_the_photos_are_refused(whole, tiny_sd1, data, tmp_path, name):
    folder, _ = whole
    shutil.copytree(data, tmp_path / "data")
    place = two_files(folder, tmp_path / "grid")
    file = tmp_path / "data" / "beta" / name
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".txt":
        file.write_text("a photo of a sks toy in the snow")
    else:
        Image.new("RGB", (88, 64), "white").save(file)
    with pytest.raises(RequestError, match="other captions, masks or ideal pictures of beta"):
        Comparison(build(tiny_grid(tiny_sd1, tmp_path / "data")), place).run()


def test_what_a_grid_learns_from_is_known_before_its_first_cell(tiny_sd1, data, tmp_path, monkeypatch):
    def stops(workshop, cells):
        raise KeyboardInterrupt

    monkeypatch.setattr("symdream.bench.runner.run_cells", stops)
    with pytest.raises(Stopped):
        Comparison(build(tiny_grid(tiny_sd1, data)), tmp_path).run()
    assert read_results(tmp_path)["grid"]["photos"].keys() == {"alpha", "beta"}


def test_states_of_one_image_seed_know_what_the_others_would_have_added(tiny_sd1, data, tmp_path):
    flags = {"methods": ["lora"], "subjects": ["alpha"], "only_last_in_full": True}
    [cell] = Comparison(build(tiny_grid(tiny_sd1, data, **flags)), tmp_path).run()["cells"]
    early, last = cell["points"]
    assert (early["images"], last["images"]) == (2, 4) and "first_seed" not in early
    rows = [row for row in read_rows(tmp_path) if row["step"] == last["step"] and row["image_seed"] == 0]
    dino = sum(row["dino"] for row in rows) / len(rows)
    assert last["first_seed"]["dino"] == pytest.approx(dino, abs=1e-5) != last["scores"]["dino"]
    shift = last["scores"]["dino"] - last["first_seed"]["dino"]
    assert path_of(cell, None)[0][1] == early["scores"]["dino"] + shift
    assert path_of(cell, None)[-1][1] == last["scores"]["dino"]


@pytest.mark.parametrize("steps, points", [(7, 4), (1, 1)])
def test_a_grid_of_any_steps_and_points_finishes(tiny_sd1, data, tmp_path, steps, points):
    flags = {"methods": ["lora"], "subjects": ["alpha"], "image_seeds": [0], "prompts_per_subject": 1}
    result = Comparison(build(tiny_grid(tiny_sd1, data, steps=steps, points=points, **flags)), tmp_path).run()
    assert [cell["error"] for cell in result["cells"]] == [None]


def test_another_grid_is_refused_in_the_same_folder(whole, tiny_sd1, data):
    folder, _ = whole
    with pytest.raises(RequestError, match="another comparison"):
        Comparison(build(tiny_grid(tiny_sd1, data, steps=6)), folder).run()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"subjects": ["beta"]}, "lost: subject alpha"),
        ({"methods": ["lora"]}, "lost: arm singlora-r2"),
        ({"training_seeds": [1], "ranks": [4]}, "lost: arm lora-r2, singlora-r2; seed 0"),
        ({"image_seeds": [0]}, "image_seeds"),
        ({"points": 1}, "checkpoints"),
        ({"prompts_per_subject": 1}, "other prompts of alpha, beta"),
    ],
)
def test_a_grid_that_would_lose_finished_cells_is_refused(whole, tiny_sd1, data, tmp_path, changes, told):
    folder, _ = whole
    two_files(folder, tmp_path)
    before = (tmp_path / RESULTS).read_bytes()
    with pytest.raises(RequestError, match=told):
        Comparison(build(tiny_grid(tiny_sd1, data, **changes)), tmp_path).run()
    assert (tmp_path / RESULTS).read_bytes() == before and not (tmp_path / "grid.toml").exists()


def test_other_settings_than_those_of_finished_cells_are_refused(whole, tiny_sd1, data, tmp_path):
    folder, content = whole
    two_files(folder, tmp_path)
    settings = {arm: Settings(**found | {"lr": 0.5}) for arm, found in content["settings"].items()}
    given = Chosen(settings, [], content["grid"])
    (tmp_path / "grid.toml").write_text("# as it was")
    with pytest.raises(RequestError, match="4 finished cells that would be lost.*'lr': 0.5"):
        Comparison(build(tiny_grid(tiny_sd1, data)), tmp_path).run(given)
    assert cells(read_results(tmp_path)) == cells(content)
    assert (tmp_path / "grid.toml").read_text() == "# as it was" and not (tmp_path / "references").exists()


def test_what_was_tuned_stays_known_until_it_is_tuned_anew(whole, tiny_sd1, data, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    folder, content = whole
    old, new = (build(tiny_grid(tiny_sd1, data, tune=True, tuning_trials=trials)) for trials in (2, 1))
    grid = content["grid"] | {"tuning_subjects": ["gamma"], "config": old.model_dump(mode="json")}
    write_results(tmp_path, content | {"cells": [], "tuning": [{"arm": "lora-r2"}], "grid": grid})
    shutil.copy(folder / SCORES, tmp_path)
    monkeypatch.setattr(Comparison, "_work", stop)
    with pytest.raises(Stopped):
        Comparison(new, tmp_path).run()
    after = read_results(tmp_path)
    assert (after["tuning"], after["settings"]) == ([{"arm": "lora-r2"}], content["settings"])
    assert after["grid"]["config"]["tuning_trials"] == 2 and "gamma" in after["grid"]["photos"]


def test_a_merged_grid_of_other_seeds_is_gone_on_with_as_it_is(tiny_sd1, data, tmp_path):
    few = {"methods": ["lora"], "subjects": ["alpha"], "image_seeds": [0], "points": 1}
    for seed in (0, 1):
        grid = build(tiny_grid(tiny_sd1, data, training_seeds=[seed], **few))
        Comparison(grid, tmp_path / str(seed)).run()
    merged = merge_folders([tmp_path / "0", tmp_path / "1"], tmp_path / "whole")
    again = Comparison(build({}, None, tmp_path / "whole" / "grid.toml"), tmp_path / "whole").run()
    assert again["complete"] and again["cells"] == merged["cells"]


def test_two_processes_never_share_a_folder(whole, tiny_sd1, data):
    folder, _ = whole
    with locked(folder), pytest.raises(RequestError, match="in use"):
        Comparison(build(tiny_grid(tiny_sd1, data)), folder).run()


def test_an_encoder_that_cannot_be_had_is_one_sentence(tiny_sd1, data, tmp_path):
    with pytest.raises(RequestError, match="/no/such"):
        Comparison(build(tiny_grid(tiny_sd1, data, dino="/no/such")), tmp_path / "grid").run()


@pytest.mark.slow
def test_two_processes_make_the_same_scores(whole, tiny_sd1, data, tmp_path, capfd):
    folder, content = whole
    found = Comparison(build(tiny_grid(tiny_sd1, data)), tmp_path / "two", processes=2).run()
    assert found["complete"] and [c["id"] for c in found["cells"]] == [c["id"] for c in content["cells"]]
    ours, expected = scores(read_rows(tmp_path / "two")), scores(read_rows(folder))
    # One thread each instead of two: sums in another order.
    assert ours.keys() == expected.keys() and list(ours.values()) == pytest.approx(list(expected.values()), abs=1e-3)
    assert "Traceback" not in capfd.readouterr().err  # idle workers end by themselves, not by a signal


@pytest.mark.slow
def test_a_worker_that_is_killed_costs_its_own_task_alone(tiny_sd1, data, tmp_path):
    grid = build(tiny_grid(tiny_sd1, data, subjects=["alpha"]))
    workshop = Workshop(grid, tmp_path)
    arms = make_arms(grid, workshop.base)
    settings = {arm.id: defaults(arm, embedded=False) for arm in arms}
    cells = grid_cells(grid, arms, ["alpha"], workshop.subjects, settings, "protocol")
    with locked(tmp_path) as lock, Workers(1, grid, tmp_path, lock) as workers:
        victim = tmp_path / "cells" / cells[0].id / "state.json"

        def kill():
            while not victim.exists():
                time.sleep(0.005)
            [process] = workers._staff.values()
            os.kill(process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        tasks = [(run_cells, ((cell,),), {}) for cell in cells]
        results = {number: result for number, result, _ in workers.do(tasks)}
        killer.join()
    assert isinstance(results[0], Died) and "exit code -9" in str(results[0])
    assert results[1][0]["cell"]["status"] == "finished"


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_waits_costs_nothing(tiny_sd1, data, tmp_path):
    task = (Workshop.draw, ((), ()), {})
    with locked(tmp_path) as lock, Workers(1, build(tiny_grid(tiny_sd1, data)), tmp_path, lock) as workers:
        assert [result for _, result, _ in workers.do([task])] == [[]]
        [first] = workers._staff.values()
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        assert [result for _, result, _ in workers.do([task])] == [[]]
        assert first not in workers._staff.values()


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_loads_costs_its_own_task_alone(tiny_sd1, data, tmp_path):
    with locked(tmp_path) as lock, Workers(1, build(tiny_grid(tiny_sd1, data)), tmp_path, lock) as workers:

        def kill():
            while not workers._busy:
                time.sleep(0.005)
            [process] = workers._staff.values()
            os.kill(process.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        results = {number: result for number, result, _ in workers.do([(Workshop.draw, ((), ()), {})] * 2)}
        killer.join()
    assert isinstance(results[0], Died) and "exit code -9" in str(results[0])
    assert results[1] == []


def test_cells_trained_in_one_loop_score_as_those_trained_alone(whole, tiny_sd1, data, tmp_path):
    folder, content = whole
    found = Comparison(build(tiny_grid(tiny_sd1, data)), tmp_path / "grid", together=8).run()
    assert found["complete"] and [c["id"] for c in found["cells"]] == [c["id"] for c in content["cells"]]
    for cell in found["cells"]:
        run = tmp_path / "grid" / "cells" / cell["id"]
        assert read_json(run / "summary.json")["trained_together"] == 2  # both subjects of one method
        assert cell["seconds_per_step"] == read_json(run / "summary.json")["seconds_per_step"] / 2
        assert not (run / "checkpoints").exists() and cell["spectrum"]
    ours, expected = scores(read_rows(tmp_path / "grid")), scores(read_rows(folder))
    assert ours.keys() == expected.keys()
    # Where a gradient is itself rounding, Adam's first steps take its sign (tests/training/test_batched.py).
    apart = sorted(abs(ours[key] - expected[key]) for key in ours)
    assert apart[len(apart) // 2] < 1e-3 and apart[-1] < 0.03


def test_what_fails_in_one_loop_is_trained_alone(whole, tiny_sd1, data, tmp_path, monkeypatch, capsys):
    folder, content = whole

    def fails(runs, *_, **__):
        shutil.rmtree(runs[0].path)  # as of a run that has not begun
        raise RuntimeError("out of memory")

    monkeypatch.setattr("symdream.bench.together.train_together", fails)
    found = Comparison(build(tiny_grid(tiny_sd1, data)), tmp_path / "grid", together=8).run()
    assert cells(found) == cells(content)
    assert "they are trained one by one: out of memory" in capsys.readouterr().err


def test_a_cell_that_cannot_be_written_is_told_and_trained_alone(tiny_sd1, data, tmp_path, monkeypatch, capsys):
    began, write = [], outputs.save_adapters

    def full_at_first(base, components, place, metadata):
        began.append(place)
        if len(began) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(base, components, place, metadata)

    monkeypatch.setattr(outputs, "save_adapters", full_at_first)
    found = Comparison(build(tiny_grid(tiny_sd1, data, methods=["lora"])), tmp_path / "grid", together=8).run()
    assert [cell["status"] for cell in found["cells"]] == ["finished", "finished"] and len(began) == 3
    name, told = began[1].parent.name, capsys.readouterr().err
    assert f"  {name} failed in one loop with others; it is trained alone: Could not write" in told


def test_what_cannot_share_a_loop_is_told_and_trained_alone(tiny_sd1, data, tmp_path, capsys):
    grid = build(tiny_grid(tiny_sd1, data, methods=["lora"], train={"accumulation": 2}))
    assert Comparison(grid, tmp_path, together=2).run()["complete"]
    told = capsys.readouterr().err
    assert "2 cells are trained one by one: " in told and "training.accumulation = 2" in told


def test_settings_that_no_cell_can_have_are_each_cells_failure(tiny_sd1, data, tmp_path, monkeypatch):
    def refuses(config, base):
        raise RequestError("This base cannot have that.")

    monkeypatch.setattr("symdream.bench.runs.resolve", refuses)
    found = Comparison(build(tiny_grid(tiny_sd1, data)), tmp_path, together=8).run()
    assert {(c["status"], c["error"]) for c in found["cells"]} == {("failed", "This base cannot have that.")}
