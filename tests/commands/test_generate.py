"""symdream generate, on a tiny run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.disk import file_size_limit
from helpers.runs import symdream, train_tiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from symdream import files
from symdream.cli import main
from symdream.commands import generate
from symdream.diffusion.base import SAMPLING_DEFAULTS
from symdream.diffusion.grid import make_grid
from symdream.diffusion.png import read_settings
from symdream.errors import Problems, RequestError, Stopped, WorkError
from symdream_apps.restore import settings_in


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_sd1, photos):
    return train_tiny(tmp_path_factory.mktemp("runs") / "toy run é", tiny_sd1, photos, steps=1)


@pytest.fixture(scope="module")
def two(tmp_path_factory, tiny_sd1, photos):
    """Two runs on one base, of other methods and with triggers of their own, that change pictures visibly."""
    root, flags = tmp_path_factory.mktemp("two"), {"steps": 4, "lr": 3e-2}
    one = train_tiny(root / "one", tiny_sd1, photos, **flags)
    return one, train_tiny(root / "other", tiny_sd1, photos, method="symlora", trigger="zwx", seed=1, **flags)


def make(run, tmp_path, *prompts, **options):
    options = {"steps": 2, "count": 2, "output": tmp_path / "images", "device": "cpu", **options}
    options = {"adapter": [run.path], **options}
    args = generate.Args(prompt=list(prompts), **options)
    assert generate.run(args) == 0
    return args.output


def test_images_carry_their_settings_and_are_gathered_in_a_grid(tmp_path, run, capsys):
    output = make(run, tmp_path, "a photo of a {subject}", "a {subject} on grass", seed=5)
    files = sorted(p.name for p in output.iterdir())
    assert files == ["00-5.png", "00-6.png", "01-5.png", "01-6.png", "grid.png"]
    assert capsys.readouterr().out.split("\n")[0].endswith("00-5.png")
    settings = read_settings(output / "01-6.png")
    assert settings["prompt"] == "a sks toy on grass" and settings["seed"] == 6 and settings["steps"] == 2
    assert settings["guidance"] == SAMPLING_DEFAULTS["guidance"]
    assert "Seed: 6" in Image.open(output / "01-6.png").text["parameters"]
    rows = [[Image.open(output / f"{i:02d}-{seed}.png") for seed in (5, 6)] for i in (0, 1)]
    prompts = ["a photo of a sks toy", "a sks toy on grass"]
    grid = make_grid(rows, row_labels=prompts, column_labels=["seed 5", "seed 6"])
    assert Image.open(output / "grid.png").tobytes() == grid.tobytes()


def test_an_image_depends_on_its_own_seed_only(tmp_path, run):
    one = make(run, tmp_path, "a {subject}", seed=1, count=1, output=tmp_path / "one")
    three = make(run, tmp_path, "a {subject}", seed=0, count=3, batch_size=3, output=tmp_path / "three")
    a, b = Image.open(one / "00-1.png"), Image.open(three / "00-1.png")
    assert max(abs(x - y) for x, y in zip(a.tobytes(), b.tobytes(), strict=True)) <= 1
    assert a.tobytes() != Image.open(three / "00-2.png").tobytes()


def test_weight_0_is_the_base_alone(tmp_path, run, tiny_sd1):
    from symdream.diffusion.base import load_base
    from symdream.diffusion.sampling import sample

    output = make(run, tmp_path, "a {subject}", weight=[0.0], count=1, seed=3)
    (expected,) = sample(load_base(str(tiny_sd1)), ["a sks toy"], [3], steps=2)
    assert Image.open(output / "00-3.png").tobytes() == expected.tobytes()


def test_several_adapters_add_up_each_at_its_weight(tmp_path, two, capsys):
    one, other = two
    both = {"adapter": [one.path, other.path], "count": 1}

    def drawn(name, prompt="a {subject} and a zwx toy", **options):
        return Image.open(make(one, tmp_path, prompt, output=tmp_path / name, **options) / "00-0.png")

    first = drawn("first", weight=[0.8], count=1)
    assert drawn("with 0", weight=[0.8, 0.0], **both).tobytes() == first.tobytes()
    mixed = drawn("mixed", weight=[0.8, 0.5], **both)
    assert mixed.tobytes() != first.tobytes()
    swapped = {"adapter": [other.path, one.path], "count": 1}
    again = drawn("swapped", prompt="a sks toy and a zwx toy", weight=[0.5, 0.8], **swapped)
    assert max(abs(x - y) for x, y in zip(mixed.tobytes(), again.tobytes(), strict=True)) <= 1, "a sum has no order"
    all_at_half, each = drawn("all", weight=[0.5], **both), drawn("each", weight=[0.5, 0.5], **both)
    assert all_at_half.tobytes() == each.tobytes()

    settings = read_settings(tmp_path / "mixed" / "00-0.png")
    assert settings["prompt"] == "a sks toy and a zwx toy", "{subject} is the first one's"
    assert settings["adapters"] == [{"name": "one", "weight": 0.8}, {"name": "other", "weight": 0.5}]
    assert settings_in(tmp_path / "mixed" / "00-0.png")["adapters"] == settings["adapters"], "as the app reads them"
    told = capsys.readouterr().err
    assert "lacks the trigger" not in told and "alike" not in told
    drawn("twice", adapter=[one.path, one.path], count=1)
    assert 'one and one answer to "sks" alike' in capsys.readouterr().err
    drawn("silent", prompt="a {subject}", **both)
    assert 'the subject of other answers to "zwx toy"' in capsys.readouterr().err


def test_without_a_weight_each_adapter_has_the_one_that_its_training_found_best(capsys):
    args = generate.Args(adapter=[Path("one"), Path("other")], prompt=["a toy"])
    assert generate.weights_of(args, [{}, {"recommended_weight": 0.8}]) == [1.0, 0.8]
    told = capsys.readouterr().err
    assert "The weight of other is 0.8" in told and "of one" not in told


def test_a_sweep_draws_the_same_seeds_at_every_weight(tmp_path, two):
    run, _ = two
    prompts, names = ("a {subject}", "a red {subject}"), ("00-3", "00-4", "01-3", "01-4")
    output = make(run, tmp_path, *prompts, sweep=[0.0, 0.5, 1.0], seed=3)
    swept = {f"{name}-w{weight}.png" for name in names for weight in ("0", "0.5", "1")}
    assert {path.name for path in output.iterdir()} == swept | {"grid.png"}
    for weight in (0.0, 1.0):
        alone = make(run, tmp_path, *prompts, weight=[weight], seed=3, output=tmp_path / f"{weight}")
        for name in names:
            swept = output / f"{name}-w{weight:g}.png"
            assert Image.open(swept).tobytes() == Image.open(alone / f"{name}.png").tobytes()
            assert read_settings(swept) == read_settings(alone / f"{name}.png")
    cells = [[Image.open(output / f"{name}-w{weight}.png") for weight in ("0", "0.5", "1")] for name in names]
    rows = [f"{prompt}, seed {seed}" for prompt in ("a sks toy", "a red sks toy") for seed in (3, 4)]
    grid = make_grid(cells, row_labels=rows, column_labels=["weight 0", "weight 0.5", "weight 1"])
    assert Image.open(output / "grid.png").tobytes() == grid.tobytes()


def test_adapters_of_different_bases_are_not_mixed_unasked(tmp_path, two, capsys):
    one, other = two
    copy = tmp_path / "elsewhere"
    shutil.copytree(other.adapter, copy)
    for file in copy.glob("*/*.safetensors"):
        with safe_open(file, "pt") as stored:
            told = json.loads(stored.metadata()["symdream"])
        told["base"]["identity"] = "owner/other@abc"
        save_file(load_file(file), file, {"symdream": json.dumps(told)})
    both = ["--adapter", str(one.path), str(copy), "--prompt", "a {subject}", "--steps", "1", "--count", "1"]
    assert main(["generate", *both, "-o", str(tmp_path / "o")]) == 2
    told = capsys.readouterr().err
    assert "trained on different bases: one on folder:" in told and "elsewhere on owner/other@abc" in told
    assert "--base" in told and not (tmp_path / "o").exists()
    assert main(["generate", *both, "--base", str(run_base(one)), "-o", str(tmp_path / "o")]) == 0
    assert "elsewhere: this adapter was trained on owner/other@abc" in capsys.readouterr().err


def test_the_adapter_that_does_not_fit_the_base_is_named(tmp_path, two, capsys):
    one, other = two
    wide = tmp_path / "wide.safetensors"
    place = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    save_file({f"{place}.lora_A.weight": torch.ones(2, 128), f"{place}.lora_B.weight": torch.ones(128, 2)}, wide)
    request = ["--prompt", "a red toy", "--base", run_base(one), "-o", str(tmp_path / "o")]
    assert main(["generate", "--adapter", str(one.path), str(wide), str(other.path), *request]) == 2
    told = capsys.readouterr().err
    assert f"{wide} was made for another architecture." in told and "leave it out" in told
    assert main(["generate", "--adapter", str(wide), *request]) == 2
    assert f"{wide} was made for another architecture." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--weight", "0.5", "1"], "2 weights for 1 adapter"),
        (["--adapter", "RUN", "RUN", "RUN", "--weight", "0.5", "1"], "2 weights for 3 adapters"),
        (["--weight", "0.5", "--sweep", "0", "1"], "do not go together"),
        (["--sweep", "0", "0.5", "0.5"], "holds a weight twice"),
        (["--sweep", "0", "nan"], "must be a number"),
        (["--adapter"], "is needed"),
    ],
)
def test_weights_that_do_not_fit_are_told(tmp_path, run, capsys, flags, told):
    flags = [str(run.path) if flag == "RUN" else flag for flag in flags]
    adapter = [] if "--adapter" in flags else ["--adapter", str(run.path)]
    code = main(["generate", *adapter, "--prompt", "x", *flags, "-o", str(tmp_path / "o")])
    assert code == 2 and told in capsys.readouterr().err and not (tmp_path / "o").exists()


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

    monkeypatch.setattr(opening, "open_adapters", interrupted)
    code = main(["generate", "--adapter", str(run.path), "--prompt", "a {subject}", "-o", str(tmp_path / "images")])
    told = capsys.readouterr().err
    assert code == 130 and told.strip() == "Stopped." and not (tmp_path / "images").exists()


def test_a_picture_written_as_ctrl_c_came_is_counted(tmp_path, run, monkeypatch):
    make(run, tmp_path, "a {subject}", count=3)
    write, written = files.write_atomically, []

    def interrupted(path, save):
        write(path, save)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(files, "write_atomically", interrupted)
    with pytest.raises(Stopped, match="Stopped with 2 of 4 images made"):
        make(run, tmp_path, "a {subject}", count=4, overwrite=True)


def test_a_failed_overwriting_leaves_the_images_that_it_did_not_come_to(tmp_path, run, monkeypatch):
    output = make(run, tmp_path, "a {subject}", count=2)
    before = [(output / f"00-{seed}.png").read_bytes() for seed in range(2)]
    write = files.write_atomically

    def written(path, save):
        write(path, save)
        (output / "00-6.png").mkdir()  # meanwhile, so that it cannot be written

    monkeypatch.setattr(files, "write_atomically", written)
    with pytest.raises(WorkError, match="00-6.png"):
        make(run, tmp_path, "a {subject}", seed=5, count=2, batch_size=1, output=output, overwrite=True)
    assert [(output / f"00-{seed}.png").read_bytes() for seed in range(2)] == before
    assert (output / "00-5.png").is_file() and not (output / "grid.png").exists()


@pytest.mark.parametrize(
    ("sampler", "dtype"), [("base", "fp32"), ("ddim", "bf16"), ("euler", "fp32"), ("dpm++", "fp32")]
)
def test_what_is_asked_for_reaches_the_picture_and_its_file(tmp_path, run, tiny_sd1, sampler, dtype):
    from symdream.diffusion.base import load_base
    from symdream.diffusion.dtypes import DTYPES
    from symdream.diffusion.sampling import sample

    asked = {
        "sampler": sampler,
        "width": 128,
        "height": 64,
        "guidance": 3.0,
        "negative_prompt": "a red bird",
        "steps": 3,
    }
    output = make(run, tmp_path, "a {subject}", **asked, dtype=dtype, weight=[0.0], count=1)
    (expected,) = sample(load_base(str(tiny_sd1), dtype=DTYPES[dtype]), ["a sks toy"], [0], **asked)
    assert Image.open(output / "00-0.png").tobytes() == expected.tobytes()
    told = read_settings(output / "00-0.png")
    assert {name: told[name] for name in asked} == asked


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


def test_a_negative_prompt_without_effect_is_told_and_one_with_it_is_not(tmp_path, run, capsys):
    def drawn(name, **options):
        output = make(run, tmp_path, "a {subject}", count=1, output=tmp_path / name, **options)
        return Image.open(output / "00-0.png").tobytes(), capsys.readouterr().err.count("no effect")

    alone, told = drawn("alone", guidance=1)
    assert told == 0
    assert drawn("without", guidance=1, negative_prompt="blue") == (alone, 1)
    assert drawn("with", guidance=3, negative_prompt="blue")[1] == 0


def test_all_problems_are_told_at_once(tmp_path):
    args = generate.Args(
        adapter=[tmp_path / "nowhere"],
        prompt=["", "x {sbject}"],
        negative_prompt="{sbjct}",
        count=0,
        seed=-1,
        steps=0,
        width=63,
        weight=[float("nan")],
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


@pytest.mark.parametrize("name", ["00-0.png", "00-1.png", "grid.png"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_under_a_pictures_name_is_told_before_anything_is_drawn(tmp_path, run, name, overwrite):
    output = tmp_path / "images"
    if overwrite:
        make(run, tmp_path, "a {subject}", count=1, seed=7)
        (output / "grid.png").unlink()
    (output / name).mkdir(parents=True)
    before = sorted(output.iterdir())
    with pytest.raises(Problems, match=f"holds a folder {name}"):
        make(run, tmp_path, "a {subject}", overwrite=overwrite)
    assert sorted(output.iterdir()) == before


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
    source = run.adapter / "unet"
    bare = tmp_path / "bare" / "unet"
    bare.mkdir(parents=True)
    (bare / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    save_file(load_file(source / "adapter_model.safetensors"), bare / "adapter_model.safetensors")
    base = json.loads(run.env.read_text())["base"]["identity"].removeprefix("folder:")
    assert base
    args = generate.Args(
        adapter=[bare.parent], prompt=["a {subject}"], output=tmp_path / "o", base=str(run_base(run)), device="cpu"
    )
    with pytest.raises(RequestError, match="does not say which words"):
        generate.run(args)


def run_base(run):
    from symdream.settings import read_toml

    return read_toml(run.config)["model"]["base"]


def test_the_command_ends_with_2_on_an_adapter_that_is_none(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    result = symdream(
        "generate", "--adapter", tmp_path / "a.safetensors", "--prompt", "x", "-o", tmp_path / "o", "--base", "sprite"
    )
    assert result.returncode == 2 and "a.safetensors" in result.stderr
