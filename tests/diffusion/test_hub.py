"""Bases of the hub: the real client against a hub on this machine, through the `symdream base` command."""

import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from helpers.fake_hub import COMMIT, fake_hub
from helpers.tiny_models import in_two_files, write_tiny_sd

from symdream.diffusion.base import load_base
from symdream.diffusion.hub import _check_disk, needed_files
from symdream.errors import RequestError, WorkError

UNET = "unet/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def repos(tmp_path_factory):
    root = tmp_path_factory.mktemp("repos")
    wide = write_tiny_sd(root / "wide", "sd2", text_width=1024)
    (wide / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"never asked for")
    (wide / "v2.safetensors").write_bytes(b"never asked for")
    pickled = write_tiny_sd(root / "pickled")
    (pickled / UNET).rename((pickled / UNET).with_suffix(".bin"))
    (root / "single" / "old").mkdir(parents=True)
    for name in ("v2.safetensors", "old/a.safetensors"):
        (root / "single" / name).write_bytes(b"never asked for")
    return {
        "me/tiny": wide,
        "me/gated": wide,
        "me/inpaint": write_tiny_sd(root / "inpaint", in_channels=9),
        "me/pickled": pickled,
        "me/single": root / "single",
    }


@pytest.fixture
def hub(repos):
    with fake_hub(repos, gated=("me/gated",)) as running:
        yield running


@pytest.fixture
def symdream(hub, tmp_path):
    """Run `symdream ...` with this hub and a cache of its own; gives the finished process."""
    home = tmp_path / "home é"
    online = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_CACHE": str(home / "hub")}

    def run(*arguments, code="from symdream.cli import main; raise SystemExit(main())"):
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(command, env=os.environ | online, capture_output=True, text=True, timeout=240)

    return run


@pytest.mark.slow
def test_get_resumes_inside_a_file_where_an_interrupted_download_stopped(hub, symdream):
    hub.cut = {TEXT}
    first = symdream("base", "get", "me/tiny")
    assert first.returncode == 1
    assert "me/tiny" in first.stderr
    listed = json.loads(symdream("base", "list", "--json").stdout)
    assert [(e["name"], e["state"]) for e in listed][-1] == ("me/tiny", "incomplete")

    hub.down = False
    before = len(hub.requests)
    second = symdream("base", "get", "me/tiny")
    assert second.returncode == 0, second.stderr
    ranges = [r for method, path, r in hub.requests[before:] if method == "GET" and path.endswith(TEXT)]
    assert len(ranges) == 1
    assert int(ranges[0].removeprefix("bytes=").rstrip("-")) >= 10 * 2**20
    assert not [path for method, path, _ in hub.requests[before:] if method == "GET" and path.endswith(UNET)]
    assert not [name for name in hub.fetched() if name.endswith(".bin") or name == "v2.safetensors"]

    # Now nothing of it needs the hub any more.
    hub.down = True
    listed = json.loads(symdream("base", "list", "--json").stdout)
    assert [(e["name"], e["state"]) for e in listed][-1] == ("me/tiny", "downloaded")
    loading = "from symdream.diffusion.base import load_base; b = load_base('me/tiny'); print(b.identity, b.family)"
    assert symdream(code=loading).stdout.split() == [f"me/tiny@{COMMIT}", "sd2"]

    checked = symdream("base", "check", "me/tiny")
    assert (checked.returncode, checked.stdout.count("sha256")) == (0, 3)
    folder = second.stdout.strip()
    blob = os.path.realpath(os.path.join(folder, UNET))
    with open(blob, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x7f")
    checked = symdream("base", "check", "me/tiny")
    assert checked.returncode == 1
    assert "differs from its checksum" in checked.stderr
    assert "BAD" in checked.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("me/gated", 2, ["me/gated is gated", "agree at"]),
        ("me/nothing", 2, ["knows no model me/nothing", "spelling"]),
        ("me/tiny@v9", 2, ["me/tiny has no version v9"]),
        ("me/inpaint", 2, ["inpainting"]),
        ("me/pickled", 2, ["diffusion_pytorch_model.bin is a pickle"]),
        ("me/single", 2, ["me/single is no diffusers model", "download v2.safetensors and give its path"]),
    ],
)
def test_what_cannot_be_had_is_told_in_one_sentence_and_no_weights_are_fetched(hub, symdream, name, code, words):
    finished = symdream("base", "get", name)
    assert finished.returncode == code
    assert all(word in finished.stderr for word in words), finished.stderr
    assert "Traceback" not in finished.stderr
    assert not [file for file in hub.fetched() if file.endswith(".safetensors")]


@pytest.mark.slow
def test_without_network_the_sentence_names_the_base_and_the_ways_out(hub, symdream):
    hub.shutdown()
    hub.server_close()
    finished = symdream("base", "get", "sd15")
    assert finished.returncode == 1
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in finished.stderr
    assert "cannot be reached" in finished.stderr
    assert "--base sprite" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize("name", ["sd15", "sdxl", "somebody/some-model"])
def test_the_offline_variable_is_named_when_it_forbids_a_download(name, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WorkError, match="HF_HUB_OFFLINE") as caught:
        load_base(name)
    assert "sprite" in caught.value.fix


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Put a folder into an empty cache as me/NAME; gives that name."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))

    def put(folder):
        repo = tmp_path / "cache" / f"models--me--{folder.name}"
        shutil.copytree(folder, repo / "snapshots" / COMMIT)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text(COMMIT)
        return f"me/{folder.name}", repo / "snapshots" / COMMIT

    return put


def test_what_the_cache_has_is_loaded_completed_or_refused_for_what_it_is(tmp_path, tiny_sd1, cached):
    name, folder = cached(tiny_sd1)
    assert load_base(name).identity == f"{name}@{COMMIT}"
    (folder / UNET).unlink()
    with pytest.raises(WorkError, match="is not on this machine, and HF_HUB_OFFLINE forbids"):
        load_base(name)
    name, _ = cached(write_tiny_sd(tmp_path / "inpaint", in_channels=9))
    with pytest.raises(RequestError, match="inpainting"):  # no download would make it another
        load_base(name)


def test_a_download_that_the_disk_cannot_take_is_not_begun(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "not" / "there yet"))
    _check_disk(1)
    with pytest.raises(WorkError, match="the download takes 1000000000.0 GB") as refused:
        _check_disk(10**18)
    assert "HF_HOME" in refused.value.fix


@pytest.mark.parametrize(("family", "variant"), [("sd1", None), ("sdxl", "fp16")])
def test_what_is_fetched_is_enough_to_load_and_nothing_else(tmp_path, family, variant):
    """Of repositories in shards, with tokenizers in two files."""
    repo, here = write_tiny_sd(tmp_path / "repo", family, variant=variant), tmp_path / "here"
    whole = load_base(str(repo), dtype=torch.float16)
    models = {"vae": whole.vae, **whole.components()}
    for part, model in models.items():
        for file in (repo / part).glob("*.safetensors"):
            file.unlink()
        model.save_pretrained(repo / part, max_shard_size="400KB", variant=variant)
    for tokenizer in repo.glob("tokenizer*"):
        in_two_files(tokenizer)
    kept = {path.relative_to(repo).as_posix() for path in repo.rglob("*") if path.is_file()}
    others = {"v1.safetensors", "vae/model.bin", "unet/model.onnx", "safety_checker/model.safetensors", "grid.png"}
    files = needed_files(sizes(*kept, *others), family)
    assert set(files) == kept and len(files) == len(kept)
    for name in files:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, here / name)
    fetched = load_base(str(here), dtype=torch.float16)
    for part, model in models.items():
        found = fetched.vae if part == "vae" else fetched.components()[part]
        assert all(torch.equal(p, found.state_dict()[name]) for name, p in model.state_dict().items())


def sizes(*names):
    return dict.fromkeys(names, 1)


def test_fp16_is_fetched_where_every_part_offers_it():
    full = [UNET, "vae/diffusion_pytorch_model.safetensors", TEXT]
    half = [name.replace(".safetensors", ".fp16.safetensors") for name in full]
    assert set(needed_files(sizes("model_index.json", *full, *half), "sd1")) == {"model_index.json", *half}
    assert set(needed_files(sizes(*full, *half[:2]), "sd1")) == set(full)
    assert set(needed_files(sizes(*full[:2], *half), "sd1")) == set(half)


def test_the_model_card_is_fetched_where_there_is_one():
    """It names the licence; SD 1.5 and SDXL have one on the hub."""
    names = [UNET, "vae/diffusion_pytorch_model.safetensors", TEXT]
    assert "README.md" in needed_files(sizes(*names, "README.md"), "sd1")
    assert set(needed_files(sizes(*names), "sd1")) == set(names)


def test_shards_are_fetched_with_their_index():
    stem = "unet/diffusion_pytorch_model"
    shards = [f"{stem}.safetensors.index.json", *(f"{stem}-{i:05d}-of-00002.safetensors" for i in (1, 2))]
    others = ["vae/diffusion_pytorch_model.safetensors", TEXT]
    assert set(needed_files(sizes(*shards, *others, f"{stem}.bin"), "sd1")) == {*shards, *others}


def test_the_second_text_encoder_is_fetched_for_sdxl_only():
    names = [UNET, "vae/diffusion_pytorch_model.safetensors", TEXT, "text_encoder_2/model.safetensors"]
    assert "text_encoder_2/model.safetensors" in needed_files(sizes(*names), "sdxl")
    assert "text_encoder_2/model.safetensors" not in needed_files(sizes(*names), "sd1")


@pytest.mark.parametrize(
    ("offered", "told"),
    [("text_encoder/model.bin", "model.bin is a pickle"), ("text_encoder/x.ckpt", "x.ckpt is a pickle"),
     ("text_encoder/config.json", "no weights for its text_encoder")],
)  # fmt: skip
def test_a_repository_without_safetensors_of_a_part_is_refused_before_any_download(offered, told):
    with pytest.raises(RequestError, match=told):
        needed_files(sizes(UNET, "vae/diffusion_pytorch_model.safetensors", offered), "sd1")
