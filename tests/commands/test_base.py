import json
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.tiny_models import write_tiny_sd, write_tiny_single_file

from symdream.cli import main
from symdream.commands.base import Args, Check, Export, Get, List, run
from symdream.diffusion.base import load_base
from symdream.errors import Problems, RequestError, WorkError


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))


def test_the_command_knows_its_four_actions():
    assert set(Args.__args__) == {List, Get, Check, Export}


def test_list_shows_the_embedded_base_and_what_the_others_would_take(empty_cache, capsys):
    assert run(List(json=True)) == 0
    entries = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert entries["sprite"]["state"] == "embedded"
    assert 25e6 < entries["sprite"]["bytes"] < 40e6
    assert (entries["sd15"]["state"], entries["sdxl"]["state"]) == ("not downloaded", "not downloaded")
    assert round(entries["sd15"]["bytes"] / 1e9, 1) == 2.1
    assert run(List()) == 0
    assert capsys.readouterr().out.startswith("sprite")


def test_get_of_what_is_here_says_so(capsys):
    assert run(Get("sprite")) == 0
    assert "nothing to download" in capsys.readouterr().err


def test_check_passes_whole_folders_and_files_and_fails_damaged_ones(tmp_path, capsys):
    folder = write_tiny_sd(tmp_path / "tiny")
    file = write_tiny_single_file(tmp_path / "tiny.safetensors")
    assert run(Check(str(folder))) == 0
    assert run(Check(str(file))) == 0
    assert "header: sd1" in capsys.readouterr().out
    for path in (folder / "vae" / "diffusion_pytorch_model.safetensors", file):
        path.write_bytes(path.read_bytes()[:-1])
    assert run(Check(str(folder))) == 1
    assert run(Check(str(file))) == 1
    assert capsys.readouterr().err.count("truncated") == 2


def test_check_of_a_base_that_is_not_here_says_how_to_get_it(empty_cache):
    with pytest.raises(WorkError, match="not on this machine") as caught:
        run(Check("sd15"))
    assert caught.value.fix == "symdream base get sd15"


def test_export_turns_a_single_file_into_a_folder_that_diffusers_loads(tmp_path):
    file = write_tiny_single_file(tmp_path / "tiny.safetensors")
    assert run(Export(str(file), tmp_path / "out")) == 0
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None)
    assert pipe.unet.dtype == torch.float32
    assert pipe.tokenizer("sks").input_ids == [49406, 48136, 49407]


def test_export_replaces_a_base_on_request_and_nothing_else(tmp_path):
    files = [write_tiny_single_file(tmp_path / f"{seed}.safetensors", seed=seed) for seed in (0, 1)]
    out = tmp_path / "out"
    assert run(Export(str(files[0]), out)) == 0
    with pytest.raises(RequestError, match="exists already"):
        run(Export(str(files[1]), out))
    assert run(Export(str(files[1]), out, overwrite=True)) == 0
    weights = [load_base(str(path)).unet.state_dict() for path in (files[1], out)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    (out / "notes.txt").touch()
    with pytest.raises(RequestError, match="notes.txt"):
        run(Export(str(files[0]), out, overwrite=True))
    (tmp_path / "file").touch()
    with pytest.raises(Problems, match="folder"):
        run(Export("owner/never-asked-for", tmp_path / "file" / "out"))


def test_export_refuses_an_existing_folder_before_loading_anything(tmp_path):
    with pytest.raises(RequestError, match="exists already"):
        run(Export("owner/never-asked-for", tmp_path))


@pytest.mark.parametrize("name", ["sprite.safetensors", "sprite.CKPT"])
def test_export_refuses_the_name_of_a_file(tmp_path, name):
    with pytest.raises(RequestError, match="written as a folder") as refused:
        run(Export("owner/never-asked-for", tmp_path / name))
    assert refused.value.fix == f"give {tmp_path / 'sprite'}"


@pytest.mark.parametrize("name", [".", "..", "../here"])
def test_export_refuses_the_folder_that_it_runs_in(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(RequestError, match="this command runs in, or holds it"):
        run(Export("sprite", Path(name), overwrite=True))


def test_the_command_line_reaches_the_actions_and_their_exit_codes(tmp_path, capsys):
    folder = write_tiny_sd(tmp_path / "tiny")
    assert main(["base", "check", str(folder)]) == 0
    (folder / "unet" / "config.json").unlink()
    assert main(["base", "check", str(folder)]) == 1
    assert main(["base", "export", "model.ckpt", str(tmp_path / "x")]) == 2
    assert "is a pickle" in capsys.readouterr().err
