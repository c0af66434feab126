"""The config.toml of a run, taken for another one."""

import tomllib

import pytest
from helpers.runs import symdream, tiny_config

from symdream import config as settings
from symdream.errors import RequestError
from symdream.training import request

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
