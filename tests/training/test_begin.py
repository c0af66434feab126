"""What ends a run before its first step, and what it leaves."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.runs import adapter_tensors, make_photos, symdream, tiny_config, train_tiny, train_tiny_to_step_2
from PIL import Image
from safetensors.torch import load_file, save_file

from symdream.errors import Problems, RequestError, WorkError
from symdream.files import write_json
from symdream.training import batched, defaults, request
from symdream.training.batched import train_together
from symdream.training.run_folder import RunFolder
from symdream.training.session import leave, run_training

pytestmark = pytest.mark.usefixtures("few_denoising_steps")


@pytest.fixture
def misplaced(tmp_path):
    """Photos of which one has a mask that its square, the middle, shows nothing of."""
    folder = make_photos(tmp_path / "wide", size=(240, 64))
    mask = Image.new("L", (240, 64))
    mask.paste(255, (0, 0, 30, 64))
    mask.save(folder / "01_mask.png")
    return folder


def test_a_refusal_after_the_base_was_loaded_leaves_the_place_free(tmp_path, tiny_sd1, misplaced):
    with pytest.raises(RequestError, match="leaves nothing of the photo"):
        train_tiny(tmp_path / "run", tiny_sd1, misplaced, steps=1)
    assert not (tmp_path / "run").exists()
    train_tiny(tmp_path / "run", tiny_sd1, misplaced, steps=1, mask_strength=0)


def test_a_run_that_was_to_be_replaced_is_there_until_the_first_step(tmp_path, tiny_sd1, photos, misplaced):
    old = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1, rank=3)
    before = adapter_tensors(old)
    run = RunFolder.create(old.path, overwrite=True)
    with pytest.raises(RequestError, match="leaves nothing of the photo"):
        run_training(run, tiny_config(tiny_sd1, misplaced, steps=1))
    assert all((adapter_tensors(old)[name] == tensor).all() for name, tensor in before.items())
    assert old.read_state()["status"] == "finished"
    run_training(RunFolder.create(old.path, overwrite=True), tiny_config(tiny_sd1, photos, steps=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "wide"]


def alone(run, config, told):
    with pytest.raises(WorkError, match=f"Step 1 of 1: .*{told}"):
        run_training(run, config)


def together(run, config, told):
    assert train_together([run], [config]) == [False]


@pytest.mark.parametrize("train", [alone, together])
@pytest.mark.parametrize(("value", "told"), [(0, "gradient norm 0"), (1e25, "loss inf")])
def test_a_first_step_that_is_refused_costs_no_run(tmp_path, tiny_sd1, photos, train, value, told):
    old = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1, rank=3)
    before = adapter_tensors(old)
    base = shutil.copytree(tiny_sd1, tmp_path / "base")
    (file,) = (base / "unet").glob("*.safetensors")
    save_file({**load_file(file), "conv_out.weight": torch.full((4, 32, 3, 3), float(value))}, file, {"format": "pt"})
    train(RunFolder.create(old.path, overwrite=True), tiny_config(base, photos, steps=1), told)
    assert old.read_state()["status"] == "finished"
    assert all((adapter_tensors(old)[name] == tensor).all() for name, tensor in before.items())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_a_broken_class_image_is_told_with_all_else(tmp_path, photos):
    folder = make_photos(tmp_path / "class")
    whole = (folder / "01.png").read_bytes()
    (folder / "01.png").write_bytes(whole[: len(whole) // 2])
    argv = ["--images", photos, "--class-noun", "toy", "--class-images", folder, "--lora-plus-ratio", 3]
    with pytest.raises(Problems) as caught:
        request.read_request(request.parse([str(word) for word in argv], "symdream train", ""))
    assert {p.key for p in caught.value.problems} == {"training.lora_plus_ratio", "prior.class_images"}
    assert "01.png cannot be read" in str(caught.value)


def test_a_run_whose_successor_was_killed_before_its_first_step_comes_back(tmp_path, tiny_sd1, photos, capsys):
    old = train_tiny(tmp_path / "my [run]", tiny_sd1, photos, steps=1, rank=3)
    flags = ["--config", old.config, "--overwrite", "-o", old.path]
    argv = [sys.executable, "-m", "symdream.cli", "train", *map(str, flags)]
    new = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
    while "Teaching" not in (said := new.stderr.readline()):
        assert said, "it ended before it began"
    new.kill()
    new.communicate()
    (aside,) = tmp_path.glob(".my*/my*/adapter")
    assert not old.adapter.exists() and old.config.exists()

    with pytest.raises(RequestError, match="exists"):
        RunFolder.create(old.path)
    assert f"the run that was at {old.path} is there again" in capsys.readouterr().err
    assert old.adapter.exists() and old.read_state()["status"] == "finished"
    assert [path.name for path in tmp_path.iterdir()] == ["my [run]"]
    again = RunFolder.create(old.path, overwrite=True)
    run_training(again, tiny_config(tiny_sd1, photos, steps=1))
    assert [path.name for path in tmp_path.iterdir()] == ["my [run]"]


def test_a_board_that_does_not_open_brings_the_old_run_back(tmp_path, tiny_sd1, photos, monkeypatch):
    old = train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1, rank=3)
    before = adapter_tensors(old)

    def no_wandb(*_):
        raise RequestError("wandb did not start: api_key not configured")

    monkeypatch.setattr("symdream.training.recorder.open_boards", no_wandb)
    with pytest.raises(RequestError, match="wandb did not start"):
        run_training(RunFolder.create(old.path, overwrite=True), tiny_config(tiny_sd1, photos, steps=1))
    assert all((adapter_tensors(old)[name] == tensor).all() for name, tensor in before.items())
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_whose_folder_was_removed_meanwhile_ends_by_what_ended_it(tmp_path, tiny_sd1, photos):
    run = RunFolder.create(tmp_path / "run")
    run.acquire()
    run.path.joinpath("lock").unlink()
    run.path.rmdir()
    leave(run, tiny_config(tiny_sd1, photos), WorkError("its own reason"))
    assert not run.path.exists()
    run.release()


@pytest.mark.parametrize("train", [run_training, lambda run, config: train_together([run], [config])])
def test_a_run_whose_folder_is_removed_while_it_loads_does_not_rise_again(
    tmp_path, tiny_sd1, photos, monkeypatch, train
):
    run = RunFolder.create(tmp_path / "run")
    resolve = defaults.resolve

    def removed(*args):
        shutil.rmtree(run.path)
        return resolve(*args)

    monkeypatch.setattr("symdream.train.resolve", removed)
    monkeypatch.setattr(batched, "resolve", removed)
    with pytest.raises(WorkError, match=rf"{run.path} is gone, removed or moved"):
        train(run, tiny_config(tiny_sd1, photos, steps=1))
    assert not run.path.exists()


@pytest.mark.parametrize("what", ["checkpoint", "sample"])
def test_a_run_whose_folder_is_removed_while_it_trains_says_so_and_does_not_rise_again(
    tmp_path, tiny_sd1, photos, what
):
    run = RunFolder.create(tmp_path / "run")
    record = run.lines.record

    def removed_at_2(**values):
        record(**values)
        if values["step"] == 2:
            run.lines.flush()
            shutil.rmtree(run.path)

    run.lines.record = removed_at_2
    flags = {"checkpoint_every": int(what == "checkpoint"), "sample_every": 2 * int(what == "sample")}
    with pytest.raises(WorkError, match=rf"{run.path} is gone, removed or moved"):
        run_training(run, tiny_config(tiny_sd1, photos, **flags))
    assert not run.path.exists()


def test_what_is_left_of_a_run_is_neither_continued_nor_replaced_and_says_why(tmp_path, photos):
    """As of a folder that was removed while it was written to."""
    left = RunFolder(tmp_path / "run")
    (left.checkpoints / "step-2").mkdir(parents=True)
    for overwrite in (False, True):
        with pytest.raises(RequestError, match="what is left of one whose config.toml is gone") as told:
            RunFolder.create(left.path, overwrite=overwrite)
        assert "--resume" not in str(told.value) and "remove it yourself" in told.value.fix
    config = tiny_config("sprite", photos)
    left.acquire()
    leave(left, config, RequestError("a reason of its own"))
    assert (left.checkpoints / "step-2").exists()
    left.release()


@pytest.mark.parametrize("status", ["stopped", "running", "finish", None])
def test_a_refused_resume_leaves_the_state_as_it_was(tmp_path, tiny_sd1, photos, status):
    """As of a run that was stopped, killed, damaged by a crash of the disk, or has lost its state.json."""
    run = train_tiny_to_step_2(tmp_path / "run", tiny_sd1, photos)
    run.config.write_text(run.config.read_text().replace("\nsteps = 6\n", "\nsteps = 1\n"))
    if status == "running":
        write_json(run.state, {**run.read_state(), "status": "running", "pid": 2**22 + 1})
    elif status == "finish":
        run.state.write_text('{"status": "finish')
    if status is None:
        run.state.unlink()
    else:
        os.utime(run.state, (10**9, 10**9))
    before = run.state.read_bytes() if status else None
    result = symdream("train", "--resume", run.path)
    assert result.returncode == 2 and "step-2 is beyond the 1 steps" in result.stderr
    assert "failed" not in result.stderr
    if status is None:
        assert not run.state.exists()
    else:
        assert run.state.read_bytes() == before and run.state.stat().st_mtime == 10**9


def test_a_refused_resume_that_the_app_started_tells_why_in_the_state(tmp_path, tiny_sd1, photos):
    run = train_tiny_to_step_2(tmp_path / "run", tiny_sd1, photos)
    write_json(run.state, {**run.read_state(), "status": "running", "pid": os.getpid()})  # as the app does
    config = tiny_config(tiny_sd1, photos, steps=1)
    with pytest.raises(RequestError, match="beyond the 1 steps"):
        run_training(run, config, resume=True)
    state = json.loads(run.state.read_text())
    assert state["status"] == "failed" and "step-2 is beyond the 1 steps" in state["error"]
