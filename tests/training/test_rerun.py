"""The config.toml of a run, taken for another one."""

import tomllib
from types import SimpleNamespace

import pytest
import tomli_w
from helpers.runs import symdream, tiny_config

from symdream import settings
from symdream.errors import Problems, RequestError
from symdream.training import request
from symdream.training.rerun import differences

TINY = ["--steps", "1", "--batch-size", "1", "--rank", "2", "--device", "cpu", "--no-tensorboard"]


def read(*argv):
    return request.read_request(request.parse([str(word) for word in argv], "symdream train", ""))


def test_a_run_made_with_overwrite_lets_no_later_one_replace_anything(tmp_path, tiny_sd1, photos):
    run = tmp_path / "run"
    flags = ["--images", photos, "--class-noun", "toy", "--base", tiny_sd1, *TINY]
    made = symdream("train", *flags, "--overwrite", "-o", run)
    assert made.returncode == 0, made.stderr
    weights = (run / "adapter" / "unet" / "adapter_model.safetensors").read_bytes()
    again = symdream("train", "--config", run / "config.toml", "--seed", 1)  # -o forgotten
    assert again.returncode == 2 and f"{run} exists; a run never writes over another" in again.stderr
    assert (run / "adapter" / "unet" / "adapter_model.safetensors").read_bytes() == weights


def test_overwrite_counts_in_a_file_of_ones_own_but_not_in_that_of_an_old_run(tmp_path, tiny_sd1, photos, capsys):
    run = tmp_path / "run"
    text = settings.to_toml(tiny_config(tiny_sd1, photos, output=run, overwrite=True))
    assert tomllib.loads(text)["output"]["overwrite"] is False
    run.mkdir()
    for place, beside in ((tmp_path / "config.toml", None), (run / "config.toml", run / "state.json")):
        place.write_text(text.replace("overwrite = false", "overwrite = true"))
        if beside:
            beside.write_text("{}")
    assert read("--config", tmp_path / "config.toml").output.overwrite
    assert capsys.readouterr().err == ""
    assert not read("--config", run / "config.toml").output.overwrite
    assert "was for that run alone" in capsys.readouterr().err
    with pytest.raises(RequestError, match="exists"):
        request.open_output(read("--config", run / "config.toml"))
    assert read("--config", run / "config.toml", "--overwrite").output.overwrite


@pytest.fixture
def config_of(tmp_path, photos):
    """Writes what a run of these flags on sprite has in its config.toml; returns the file."""
    from symdream.training.defaults import resolve

    def write(**flags):
        config = tiny_config("sprite", photos, **{"lr": None, "rank": 8, **flags})
        file = tmp_path / "run" / "config.toml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(settings.to_toml(resolve(config, SPRITE)))
        return file

    return write


# All of a base that its defaults ask for: loading the embedded one takes seconds.
SPRITE = SimpleNamespace(name="sprite", identity="sprite", embedded=True, prediction_type="epsilon", resolution=128)
MOVES = [
    ({}, ["--rank", 16], {"alpha": None}, ["alpha = 16, derived anew from --rank (the file's 8 was its default)"]),
    ({"alpha": 4}, ["--rank", 16], {"alpha": 4}, []),
    ({}, ["--rank", 16, "--alpha", 8], {"alpha": 8}, []),
    ({}, ["--method", "lora"], {"ramp": None, "lr": 0.002},
     ["ramp is left out, derived anew from --method (the file's 0.01 was its default)"]),
    ({"method": "symlora"}, ["--method", "lora"], {"lr": None, "text_encoder_lr": None},
     ["lr = 0.002, derived anew from --method (the file's 0.0095 was its default)",
      "text_encoder_lr = 0.002, derived anew from --method (the file's 0.0095 was its default)"]),
    ({"method": "symlora", "lr": 0.005}, ["--method", "lora"], {"lr": 0.005, "text_encoder_lr": None},
     ["text_encoder_lr = 0.002, derived anew from --method (the file's 0.0095 was its default)"]),
    ({}, ["--components", "unet"], {"text_encoder_lr": None},
     ["text_encoder_lr is left out, derived anew from --components (the file's 0.002 was its default)"]),
    ({}, ["--optimizer", "prodigy"], {"lr": None, "text_encoder_lr": None},
     ["lr = 1, derived anew from --optimizer (the file's 0.002 was its default)",
      "text_encoder_lr = 1, derived anew from --optimizer (the file's 0.002 was its default)"]),
    ({"optimizer": "prodigy"}, ["--lr", 0.5], {"lr": 0.5, "text_encoder_lr": None},
     ["text_encoder_lr = 0.5, derived anew from --lr (the file's 1 was its default)"]),
    ({}, ["--base", "sd15", "--method", "lora"],
     {"lr": None, "text_encoder_lr": None, "lr_schedule": None, "resolution": None, "template": None, "ramp": None},
     ["lr = 0.0001, derived anew from --method and --base (the file's 0.002 was its default)",
      "lr_schedule = constant, derived anew from --base (the file's cosine was its default)",
      "resolution = 512, derived anew from --base (the file's 128 was its default)",
      "template = a photo of a {subject}, derived anew from --base (the file's a 3d render of a {subject} was its "
      "default)"]),
    ({"template": "my {subject}"}, ["--base", "sd15"], {"template": "my {subject}", "ramp": 0.01}, None),
    ({}, ["--steps", 3, "--seed", 1], {"alpha": 8, "ramp": 0.01, "lr": 0.002, "resolution": 128}, []),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "typed", "wanted", "lines"), MOVES)
def test_what_a_run_derived_is_derived_anew_where_a_flag_changes_what_it_follows_from(
    config_of, capsys, flags, typed, wanted, lines
):
    config = read("--config", config_of(**flags), *typed)
    where = settings.fields()
    assert {name: getattr(getattr(config, where[name][0]), name) for name in wanted} == wanted
    said = capsys.readouterr().err
    if lines is not None:
        assert set(lines) <= set(said.splitlines()) and bool(lines) == ("derived anew" in said)


def test_what_was_derived_for_several_subjects_is_derived_anew(tmp_path, photos):
    subject = {"images": str(photos), "class_noun": "toy"}
    tables = [
        {**subject, "trigger": "aaa", "template": "a 3d render of a {subject}"},
        {**subject, "trigger": "bbb", "template": "my {subject}"},
    ]
    (tmp_path / "two.toml").write_text(tomli_w.dumps({"subjects": tables}))
    config = read("--config", tmp_path / "two.toml", "--base", "sd15")
    assert [one.template for one in config.subjects] == [None, "my {subject}"]


def test_what_the_files_preset_decides_is_not_derived_anew(config_of, capsys):
    file = config_of(method="lora", components="unet")
    file.write_text(file.read_text().replace("# preset: not set", 'preset = "paper"'))
    # Left out of the file, the rate would be the preset's 0.001.
    config = read("--config", file, "--method", "symlora", "--rank", 16)
    assert config.training.lr == 0.002 and config.adapter.alpha is None
    said = capsys.readouterr().err
    assert "alpha = 16, derived anew" in said and "lr =" not in said


def test_a_wrong_flag_is_told_beside_a_file(config_of):
    with pytest.raises(Problems, match="adapter.rank = 0"):
        read("--config", config_of(), "--rank", 0)


def test_what_of_a_request_differs_from_a_run_is_told_wherever_it_is_asked_from(config_of, photos, monkeypatch):
    file, same = config_of(), {"class_noun": "toy", "base": "sprite", "steps": 6}
    monkeypatch.chdir(photos.parent)
    assert differences(file, {"images": f"{photos.name}/", **same}) == {}
    other = photos.with_name("other photos")
    assert differences(file, {"images": other.name, **same, "steps": 7, "trigger": "skt"}) == {
        "images": (photos, other),
        "steps": (6, 7),
        "trigger": ("sks", "skt"),
    }
