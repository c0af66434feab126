"""symdream demo, shortened: everything that it promises is there, and the LoRA file is the adapter."""

import json
import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from helpers.encoder_folders import picture
from helpers.fork_server import ForkServer
from helpers.runs import bare_run, make_photos, symdream, tiny_config
from PIL import Image

from symdream.cli import main
from symdream.commands import demo
from symdream.data.samples import sample_data
from symdream.diffusion.grid import make_grid
from symdream.errors import RequestError, Stopped
from symdream.settings import to_toml
from symdream.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "my demo é"
    result = symdream("demo", "--steps", "3", "--rank", "4", "-o", path, timeout=900)
    assert result.returncode == 0, result.stderr
    return RunFolder(path), result


@pytest.mark.slow
def test_the_demo_leaves_pictures_scores_and_says_where(run):
    folder, result = run
    assert str(folder.path / "grid.png") in result.stdout and (folder.path / "grid.png").is_file()
    summary = folder.read_summary()
    assert summary["scores"].keys() == {"before", "after", "ceiling"}
    for row in summary["scores"].values():
        assert row.keys() == {"dino", "clip_i", "clip_t"} and all(-1 <= value <= 1 for value in row.values())
    assert summary["scores"]["ceiling"]["dino"] > summary["scores"]["before"]["dino"] + 0.3
    assert not (folder.path / "evaluation" / "class").exists(), "its pictures would cost more than their worth here"
    assert summary["trainable_parameters"] < 0.55 * summary["lora_parameters_at_this_rank"]


@pytest.mark.slow
def test_the_lora_file_loaded_by_diffusers_draws_what_the_adapter_draws(run):
    from symdream.diffusion.adapters import attach_saved
    from symdream.diffusion.base import load_base

    folder, _ = run
    (file,) = folder.path.glob("*-lora.safetensors")
    assert "trigger  sks bird" in file.with_suffix(".txt").read_text()
    assert Image.open(file.with_suffix(".png")).size == (128, 128)
    ours, theirs = load_base("sprite"), load_base("sprite")
    attach_saved(ours, folder.adapter)
    theirs.pipeline().load_lora_weights(str(file))
    ids = torch.arange(77)[None] + 5
    x, t = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    with torch.no_grad():
        plain = load_base("sprite")
        text, expected_text = theirs.text_encoder(ids)[0], ours.text_encoder(ids)[0]
        assert (expected_text - plain.text_encoder(ids)[0]).abs().max() > 1e-4
        torch.testing.assert_close(text, expected_text, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            theirs.unet(x, t, text).sample, ours.unet(x, t, expected_text).sample, rtol=1e-5, atol=1e-5
        )


@pytest.mark.slow
def test_an_existing_folder_is_refused_before_any_work(run):
    folder, _ = run
    before = json.dumps(folder.read_summary())
    result = symdream("demo", "--steps", "3", "-o", folder.path)
    assert result.returncode == 2 and "--overwrite" in result.stderr
    assert json.dumps(folder.read_summary()) == before


@pytest.mark.slow
def test_a_demo_that_is_stopped_goes_on_to_its_end_by_the_command_that_it_tells(tmp_path):
    """Stopped while it trains, and again while it draws."""
    path = tmp_path / "my demo"
    run = RunFolder(path)
    command = ["demo", "--rank", "4", "--steps", "6", "-o", str(path)]
    with ForkServer() as server:
        child = server.start(*command, log=tmp_path / "log")
        child.wait_until(lambda: run.read_state().get("status") == "running")
        run.stop_file.touch()
        assert child.wait() == 130, child.said
        again = child.said.partition("go on with: symdream ")[2].splitlines()[0]
        assert shlex.split(again) == command

        child = server.start(*command, log=tmp_path / "log")
        child.wait_until(lambda: list(path.glob(".evaluation.drawing/*/00003.png")))
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait() == 130 and f"go on with: symdream {again}" in child.said
        assert "resumed at step" in child.said and not list(path.glob("*-lora.safetensors"))

        child = server.start(*command, log=tmp_path / "log")
        assert child.wait() == 0, child.said
        assert "is trained; its pictures and files follow" in child.said and "are there already" in child.said
    assert (path / "grid.png").is_file() and list(path.glob("*-lora.safetensors"))
    assert run.read_summary()["scores"].keys() == {"before", "after", "ceiling"}


@pytest.mark.parametrize("aside", [False, True])
def test_a_run_that_no_demo_made_is_never_taken_over(tmp_path, capsys, aside):
    """Neither where it lies, nor where a killed process had put it aside."""
    path = tmp_path / "run"
    place = tmp_path / ".run.old-x" / "run" if aside else path
    place.mkdir(parents=True)
    (place / "config.toml").write_text("[adapter]\nalpha = 32.0\n")
    (place / "state.json").write_text(json.dumps({"status": "stopped", "step": 1, "steps": 400}))
    assert main(["demo", "-o", str(path)]) == 2
    assert "a run never writes over another" in capsys.readouterr().err
    assert (path / "config.toml").read_text() == "[adapter]\nalpha = 32.0\n"
    assert not (path / "evaluation").exists() and json.loads((path / "state.json").read_text())["step"] == 1


def test_photos_of_ones_own_need_a_noun(tmp_path):
    result = symdream("demo", "--images", make_photos(tmp_path / "photos"), "-o", tmp_path / "run")
    assert result.returncode == 2 and "class_noun" in result.stderr
    assert not (tmp_path / "run").exists()


def test_the_sample_owl_is_at_hand():
    assert len(list((sample_data() / "owl").glob("*.png"))) == 5


@pytest.mark.parametrize(
    "args",
    [
        demo.Args(),
        demo.Args(
            images=Path("my photos/it's"), class_noun="a dog", method="lora+", rank=3, steps=7, seed=5, base="sd15"
        ),
        demo.Args(seed=1, overwrite=True),  # which would begin anew
    ],
)
def test_the_command_that_goes_on_asks_for_what_was_asked_for_and_replaces_nothing(args):
    program, command, *argv = shlex.split(demo.again_command(args, Path("my runs/é")))
    assert (program, command) == ("symdream", "demo")
    assert tyro.cli(demo.Args, args=argv) == replace(args, output=Path("my runs/é"), overwrite=False)


def started(path, monkeypatch, **options):
    """The settings that a demo begins or goes on with, and which of the two; stopped before its first step."""

    def stopped(folder, config, goes_on):
        folder.config.write_text("")
        begun.append((config, goes_on))
        raise Stopped("Stopped.")

    begun = []
    monkeypatch.setattr(demo, "train", stopped)
    with pytest.raises(Stopped, match="go on with: symdream demo"):
        demo.run(demo.Args(output=path, **options))
    return begun[0]


def test_only_what_a_demo_with_the_same_settings_left_unfinished_is_gone_on_with(tmp_path, monkeypatch):
    path = tmp_path / "run"
    photos = make_photos(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    same = {"images": photos, "class_noun": "toy", "steps": 3}
    assert not started(path, monkeypatch, **same)[1]
    assert started(path, monkeypatch, **same | {"images": Path("photos")})[1], "by another name, the same photos"
    with pytest.raises(RequestError, match="never writes over another"):
        started(path, monkeypatch, **same | {"steps": 4})
    assert not started(path, monkeypatch, **same, overwrite=True)[1]
    (path / "grid.png").touch()
    assert started(path, monkeypatch, **same)[1]
    (path / "run-lora.safetensors").touch()
    with pytest.raises(RequestError, match="never writes over another"):
        started(path, monkeypatch, **same)


def test_what_was_tuned_for_one_method_on_sprite_is_not_set_for_others(tmp_path, monkeypatch):
    ours, _ = started(tmp_path / "a", monkeypatch)
    other, _ = started(tmp_path / "b", monkeypatch, method="lora", rank=4, seed=6, class_noun="hen")
    assert (ours.training.lr, ours.adapter.init, ours.subject.class_noun) == (2e-3, "small", "bird")
    assert (other.training.lr, other.adapter.init) == (None, None)
    assert (other.adapter.rank, other.training.seed, other.subject.class_noun) == (4, 6, "hen")


def test_the_grid_shows_photos_base_and_adapter_from_the_seed_of_the_run(tmp_path, photos):
    folder, cells = bare_run(tmp_path / "run"), [[Image.open(path) for path in sorted(photos.glob("*.png"))]]
    folder.config.write_text(to_toml(tiny_config(Path("sprite"), photos, seed=3)))
    for row, which in enumerate(("before", "after"), 1):
        place = folder.path / "evaluation" / which
        place.mkdir(parents=True)
        cells.append([picture(10 * row + column) for column in range(3)])
        for column, cell in enumerate(cells[-1]):
            cell.save(place / f"{column:02d}-3.png")
            picture(9).save(place / f"{column:02d}-4.png")
    demo.draw_grid(tmp_path / "grid.png", folder, ["a {subject}", "a red {subject}", "a blue {subject}"])
    rows = ["the subject's photos", "the base alone", "with the adapter, same seeds"]
    columns = ["a sks toy", "a red sks toy", "a blue sks toy"]
    wanted = make_grid(cells, row_labels=rows, column_labels=columns, labels_above_row=1)
    assert Image.open(tmp_path / "grid.png").tobytes() == wanted.tobytes()


def test_the_table_tells_the_scores_of_the_summary_and_what_they_cost(tmp_path, capsys):
    folder = bare_run(tmp_path / "run")
    scores = {row: {"dino": i, "clip_i": i + 0.25, "clip_t": i + 0.5} for i, row in enumerate(("before", "after"))}
    folder.update_summary(
        scores=scores, trainable_parameters=1500, lora_parameters_at_this_rank=3000, seconds_total=61.0,
        seconds_per_step=0.25, peak_memory_bytes=3 * 2**29,
    )  # fmt: skip
    demo.print_table(folder)
    printed = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line.startswith("│")]
    assert rows == [["the base alone", "0.000", "0.250", "0.500"], ["with the adapter", "1.000", "1.250", "1.500"]]
    assert "1,500 trained; LoRA of the same rank: 3,000 (50%)" in printed
    assert "61 s in all, 0.25 s a training step" in printed and "1.5 GiB" in printed
