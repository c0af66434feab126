"""symdream generate, on a tiny run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers.disk import file_size_limit
from helpers.runs import symdream, train_tiny
from PIL import Image

from symdream.cli import main
from symdream.commands import generate
from symdream.diffusion.png import read_settings
from symdream.errors import Problems, RequestError, Stopped, WorkError


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_sd1, photos):
    return train_tiny(tmp_path_factory.mktemp("runs") / "toy run é", tiny_sd1, photos, steps=1)


def make(run, tmp_path, *prompts, **options):
    options = {"steps": 2, "count": 2, "output": tmp_path / "images", "device": "cpu", **options}
    args = generate.Args(adapter=run.path, prompt=list(prompts), **options)
    assert generate.run(args) == 0
    return args.output


def test_images_carry_their_settings_and_are_gathered_in_a_grid(tmp_path, run, capsys):
    output = make(run, tmp_path, "a photo of a {subject}", "a {subject} on grass", seed=5)
    files = sorted(p.name for p in output.iterdir())
    assert files == ["00-5.png", "00-6.png", "01-5.png", "01-6.png", "grid.png"]
    assert capsys.readouterr().out.split("\n")[0].endswith("00-5.png")
    settings = read_settings(output / "01-6.png")
    assert settings["prompt"] == "a sks toy on grass" and settings["seed"] == 6 and settings["steps"] == 2
    assert "Seed: 6" in Image.open(output / "01-6.png").text["parameters"]


def test_an_image_depends_on_its_own_seed_only(tmp_path, run):
    one = make(run, tmp_path, "a {subject}", seed=1, count=1, output=tmp_path / "one")
    three = make(run, tmp_path, "a {subject}", seed=0, count=3, batch_size=3, output=tmp_path / "three")
    a, b = Image.open(one / "00-1.png"), Image.open(three / "00-1.png")
    assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)) <= 1
    assert a.tobytes() != Image.open(three / "00-2.png").tobytes()


def test_weight_0_is_the_base_alone(tmp_path, run, tiny_sd1):
    from symdream.diffusion.base import load_base
    from symdream.diffusion.sampling import sample

    output = make(run, tmp_path, "a {subject}", weight=0.0, count=1, seed=3)
    (expected,) = sample(load_base(str(tiny_sd1)), ["a sks toy"], [3], steps=2)
    assert Image.open(output / "00-3.png").tobytes() == expected.tobytes()


def test_a_disk_that_takes_no_picture_is_told_without_a_trace(tmp_path, run, capsys):
    request = ["--adapter", str(run.path), "--prompt", "a {subject}", "--steps", "1"]
    with file_size_limit(100):
        code = main(["generate", *request, "-o", str(tmp_path / "images")])
    told = capsys.readouterr().err
    assert code == 1 and "File too large" in told and "00-0.png" in told and "Traceback" not in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_the_images_that_are_made(number, tmp_path, run):
    output = tmp_path / "images"
    flags = ["--adapter", run.path, "--prompt", "a {subject}", "--count", "500", "--batch-size", "2", "--steps", "2"]
    command = [sys.executable, "-m", "symdream.cli", "generate", *flags, "-o", output, "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
    while not (output / "00-3.png").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(number)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    made = sorted(output.glob("*.png"))
    assert f"{len(made)} of 500 images" in told and str(output) in told and 4 <= len(made) < 500
    assert all(read_settings(file)["seed"] == int(file.stem.split("-")[1]) for file in made)


def test_a_signal_that_a_library_makes_an_error_of_is_told_as_a_stop(tmp_path, run, monkeypatch, capsys):
    from symdream.interop import open as opening

    def interrupted(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise OSError("Unable to load weights from checkpoint file") from None

    monkeypatch.setattr(opening, "open_adapter", interrupted)
    code = main(["generate", "--adapter", str(run.path), "--prompt", "a {subject}", "-o", str(tmp_path / "images")])
    told = capsys.readouterr().err
    assert code == 130 and told.strip() == "Stopped." and not (tmp_path / "images").exists()


def test_a_picture_written_as_ctrl_c_came_is_counted(tmp_path, run, monkeypatch):
    from symdream.training import run_folder

    make(run, tmp_path, "a {subject}", count=3)
    write, written = run_folder.write_atomically, []

    def interrupted(path, save):
        write(path, save)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_folder, "write_atomically", interrupted)
    with pytest.raises(Stopped, match="Stopped with 2 of 4 images made"):
        make(run, tmp_path, "a {subject}", count=4, overwrite=True)


def test_a_failed_overwriting_leaves_the_images_that_it_did_not_come_to(tmp_path, run):
    output = make(run, tmp_path, "a {subject}", count=2)
    before = [(output / f"00-{seed}.png").read_bytes() for seed in range(2)]
    (output / "00-6.png").mkdir()  # so that it cannot be written
    with pytest.raises(WorkError, match="00-6.png"):
        make(run, tmp_path, "a {subject}", seed=5, count=2, batch_size=1, output=output, overwrite=True)
    assert [(output / f"00-{seed}.png").read_bytes() for seed in range(2)] == before
    assert (output / "00-5.png").is_file() and not (output / "grid.png").exists()


@pytest.mark.parametrize("sampler", ["ddim", "euler", "dpm++"])
def test_every_sampler_makes_an_image(tmp_path, run, sampler):
    output = make(run, tmp_path, "a {subject}", sampler=sampler, count=1, width=128, height=64)
    assert Image.open(output / "00-0.png").size == (128, 64)


def test_a_prompt_without_the_trigger_or_too_long_is_told(tmp_path, run, capsys):
    make(run, tmp_path, "a red toy", "a SKS toy", "a {subject} " + "on grass " * 60 + "at night", count=1)
    messages = capsys.readouterr().err
    assert 'answers to "sks toy"' in messages and "cut off" in messages and "at night" in messages
    assert '"a SKS toy" lacks' not in messages  # the tokenizer knows no case


def test_the_negative_prompt_is_filled_in_and_told_where_it_is_cut_off(tmp_path, run, capsys):
    unwanted = "a red {subject} " + "on grass " * 60 + "at night"
    output = make(run, tmp_path, "a {subject}", count=1, negative_prompt=unwanted)
    assert read_settings(output / "00-0.png")["negative_prompt"].startswith("a red sks toy on grass")
    messages = capsys.readouterr().err
    assert "the negative prompt is longer" in messages and "at night" in messages
    assert "lacks the trigger" not in messages


def test_all_problems_are_told_at_once(tmp_path):
    args = generate.Args(
        adapter=tmp_path / "nowhere",
        prompt=["", "x {sbject}"],
        negative_prompt="{sbjct}",
        count=0,
        seed=-1,
        steps=0,
        width=63,
        weight=float("nan"),
        output=tmp_path / "o",
    )
    with pytest.raises(Problems) as caught:
        generate.run(args)
    assert len(caught.value.problems) == 9
    assert "{sbject} stands for nothing; did you mean {subject}?" in str(caught.value)
    assert "--negative-prompt" in str(caught.value)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("setting", "told"),
    [({"steps": 1000}, "--steps 1000"), ({"seed": 2**64}, f"--seed {2**64}"), ({"seed": 2**63 - 1}, "at most")],
)
def test_numbers_beyond_what_the_samplers_take_are_told(tmp_path, run, setting, told):
    with pytest.raises(Problems, match=told):
        make(run, tmp_path, "a {subject}", **setting)


def test_existing_images_are_kept_unless_overwrite(tmp_path, run):
    output = make(run, tmp_path, "a {subject}", count=1)
    before = (output / "00-0.png").read_bytes()
    with pytest.raises(Problems, match="--overwrite"):
        make(run, tmp_path, "a {subject}", count=1, seed=9)
    assert (output / "00-0.png").read_bytes() == before
    make(run, tmp_path, "a {subject}", count=1, seed=9, overwrite=True)
    assert sorted(p.name for p in output.iterdir()) == ["00-9.png", "grid.png"]


def test_pictures_of_others_stay_and_only_their_names_are_in_the_way(tmp_path, run):
    output = tmp_path / "images"
    output.mkdir()
    photo = Image.new("RGB", (8, 8), "red")
    photo.save(output / "holiday.png")
    (output / "broken.png").write_bytes(b"no picture")
    make(run, tmp_path, "a {subject}", count=1)
    make(run, tmp_path, "a {subject}", count=1, seed=9, overwrite=True)
    assert sorted(p.name for p in output.iterdir()) == ["00-9.png", "broken.png", "grid.png", "holiday.png"]
    photo.save(output / "00-3.png")
    with pytest.raises(Problems, match="00-3.png that symdream did not make"):
        make(run, tmp_path, "a {subject}", count=1, seed=3, overwrite=True)
    assert Image.open(output / "00-3.png").tobytes() == photo.tobytes() and (output / "00-9.png").is_file()


def test_a_grid_of_others_is_in_the_way_but_not_one_that_was_made_before_they_were_marked(tmp_path, run):
    output = tmp_path / "images"
    output.mkdir()
    Image.new("RGB", (8, 8), "red").save(output / "grid.png")
    with pytest.raises(Problems, match="grid.png that symdream did not make"):
        make(run, tmp_path, "a {subject}", count=1, overwrite=True)
    (output / "grid.png").unlink()
    make(run, tmp_path, "a {subject}", count=1)
    Image.open(output / "grid.png").save(output / "grid.png")  # without the mark
    make(run, tmp_path, "a {subject}", count=1, seed=9, overwrite=True)
    assert sorted(p.name for p in output.iterdir()) == ["00-9.png", "grid.png"]


def test_an_adapter_without_words_cannot_fill_the_placeholder(tmp_path, run):
    from safetensors.torch import load_file, save_file

    source = run.adapter / "unet"
    bare = tmp_path / "bare" / "unet"
    bare.mkdir(parents=True)
    (bare / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    save_file(load_file(source / "adapter_model.safetensors"), bare / "adapter_model.safetensors")
    base = json.loads(run.env.read_text())["base"]["identity"].removeprefix("folder:")
    assert base
    args = generate.Args(
        adapter=bare.parent, prompt=["a {subject}"], output=tmp_path / "o", base=str(run_base(run)), device="cpu"
    )
    with pytest.raises(RequestError, match="does not say which words"):
        generate.run(args)


def run_base(run):
    from symdream.config import read_toml

    return read_toml(run.config)["model"]["base"]


def test_the_command_ends_with_2_on_an_adapter_that_is_none(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    result = symdream(
        "generate", "--adapter", tmp_path / "a.safetensors", "--prompt", "x", "-o", tmp_path / "o", "--base", "sprite"
    )
    assert result.returncode == 2 and "a.safetensors" in result.stderr
