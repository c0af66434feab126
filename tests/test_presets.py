"""Presets lie over the defaults and under whatever is given."""

import os

import pytest
import tomli_w
import torch
from helpers.runs import adapter_tensors, make_photos, symdream

from symdream import presets, settings
from symdream.errors import Problems
from symdream.presets import PRESETS
from symdream.training import request
from symdream.training.session import run_training


def read(photos, *flags, toml=None, folder=None):
    argv = ["--images", str(photos), "--class-noun", "toy", *flags]
    if toml is not None:
        file = folder / "settings.toml"
        file.write_text(tomli_w.dumps(toml))
        argv += ["--config", str(file)]
    return request.read_request(request.parse(argv, "symdream train", ""))


def test_flags_win_over_toml_toml_over_the_preset_and_the_preset_over_defaults(tmp_path, photos):
    toml = {"preset": "quality", "training": {"steps": 70}, "selection": {"select_every": 7}}
    config = read(photos, "--select-every", "5", toml=toml, folder=tmp_path)
    assert config.selection.select_every == 5  # flag, over TOML's 7 and the preset's 50
    assert config.training.steps == 70  # TOML, over the preset's 600
    assert config.adapter.rank == 16  # preset, over the default 8
    assert config.training.batch_size == 4  # default


def test_a_preset_on_the_command_line_replaces_that_of_the_file(tmp_path, photos):
    config = read(photos, "--preset", "quick", toml={"preset": "quality"}, folder=tmp_path)
    assert config.preset == "quick" and config.adapter.rank == 8


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_valid_and_sets_what_it_says(photos, name):
    config = read(photos, "--preset", name)
    for section, values in PRESETS[name].settings.items():
        for key, value in values.items():
            assert getattr(getattr(config, section), key) == value


@pytest.mark.parametrize("method", ["lora", "lora+", "dora", "singlora", "symlora"])
def test_paper_is_the_protocol_of_singlora_section_6_2_for_every_method(photos, method):
    config = read(photos, "--preset", "paper", "--method", method)
    assert (config.adapter.targets, config.adapter.components) == ("qk", "unet")
    assert (config.training.steps, config.training.lr) == (400, 1e-3)
    assert config.subject.template.format(subject=f"{config.subject.trigger} dog") == "a photo of a sks dog"


def test_the_ramp_of_paper_is_1_percent_of_its_steps(tiny_sd1, photos):
    from symdream.diffusion.base import load_base
    from symdream.training.defaults import resolve
    from symdream.training.schedule import ramp

    config = resolve(read(photos, "--preset", "paper"), load_base(str(tiny_sd1)))
    us = [ramp(step, config.training.steps, config.adapter.ramp) for step in range(6)]
    assert us == [0.25, 0.5, 0.75, 1, 1, 1]


def test_with_several_subjects_each_gets_the_words_of_the_preset_and_keeps_its_trigger():
    subjects = [{"trigger": "aaa"}, {"trigger": "bbb", "template": "my {subject}"}]
    merged, _ = presets.apply({"preset": "paper", "subjects": subjects})
    config = settings.build(merged)
    found = [(subject.trigger, subject.template) for subject in config.subjects]
    assert found == [("aaa", "a photo of a {subject}"), ("bbb", "my {subject}")]


def test_a_preset_that_there_is_not_is_refused_with_everything_else(tmp_path, photos):
    with pytest.raises(Problems) as caught:
        read(photos, toml={"preset": "best", "adapter": {"rank": 0}}, folder=tmp_path)
    assert {p.key for p in caught.value.problems} == {"preset = best", "adapter.rank = 0"}


def test_the_command_says_what_the_preset_decided(photos, capsys):
    read(photos, "--preset", "quick")
    assert "Preset quick: steps = 100." in capsys.readouterr().err
    read(photos, "--preset", "quick", "--steps", "3")
    assert "everything it sets is given otherwise" in capsys.readouterr().err


def test_the_help_explains_every_preset():
    shown = " ".join(symdream("train", "--help").stdout.replace("│", " ").split())
    for name, preset in PRESETS.items():
        assert f"{name}: {preset.why}" in shown


def test_resume_takes_no_preset(tmp_path):
    result = symdream("train", "--resume", tmp_path, "--preset", "quick")
    assert result.returncode == 2 and "--preset would change them" in result.stderr


def test_the_config_of_a_run_from_a_preset_runs_again_to_the_same_adapter(tmp_path, tiny_sd1, photos):
    tiny = ["--base", str(tiny_sd1), "--steps", "2", "--batch-size", "1", "--device", "cpu", "--no-tensorboard"]
    first = train(read(photos, "--preset", "paper", *tiny, "-o", str(tmp_path / "first")))
    again = train(read(photos, "--config", str(first.config), "-o", str(tmp_path / "again")))
    ours, theirs = adapter_tensors(first), adapter_tensors(again)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all("to_q" in name or "to_k" in name for name in ours)
    assert settings.read_toml(again.config)["preset"] == "paper"


def train(config):
    run = request.open_output(config)
    run_training(run, config)
    return run


def test_a_selection_that_is_switched_off_takes_the_presets_patience_with_it(photos):
    config = read(photos, "--preset", "quality", "--select-every", "0")
    assert (config.selection.select_every, config.selection.patience, config.selection.validate_every) == (0, 0, 50)


def test_a_runs_own_name_fits_into_a_name_of_a_file(tmp_path):
    subjects = []
    for number in range(12):
        folder = make_photos(tmp_path / f"freund_{number:02d} im ürlaub")
        subjects.append({"images": str(folder), "class_noun": "toy", "trigger": f"sks{number}"})
    config = settings.build({"subjects": subjects})
    assert request.output_path(config).name.startswith("freund_00-im-ürlaub-freund_01")
    assert len(os.fsencode(request.output_path(config).name)) < 150


def test_an_adapter_to_go_on_from_is_not_the_one_to_be_replaced(tmp_path, photos):
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    for start in (run, run / "adapter"):
        with pytest.raises(Problems, match="is what --overwrite would replace"):
            read(photos, "--start-from", str(start), "-o", str(run), "--overwrite")
    assert read(photos, "--start-from", str(run), "-o", str(tmp_path / "other"), "--overwrite")
