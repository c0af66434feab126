"""What is kept of a base is found again by its weights and its settings."""

import json
from dataclasses import replace

import pytest
import torch
from helpers.tiny_bases import tiny_base
from helpers.tiny_models import write_tiny_sd
from PIL import Image

from symdream.data.buckets import Cut
from symdream.data.latents import LatentCache
from symdream.data.store import Store
from symdream.data.texts import embed_all
from symdream.diffusion.base import load_base
from symdream.diffusion.prompts import cut_off
from symdream.diffusion.sampling import drawn_by

CUT = Cut(photo=(32, 32), box=(0, 0, 32, 32), size=(32, 32))


@pytest.mark.parametrize(
    ("part", "setting", "value"), [("text_encoder", "hidden_act", "gelu"), ("vae", "act_fn", "relu")]
)
def test_the_same_weights_with_another_setting_are_encoded_anew(tmp_path, part, setting, value):
    folder, store = write_tiny_sd(tmp_path / "tiny"), Store(tmp_path / "cache")
    bases = [load_base(str(folder))]
    config = folder / part / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {setting: value}))
    bases.append(load_base(str(folder)))
    assert bases[0].hash == bases[1].hash
    assert drawn_by(bases[0]) != drawn_by(bases[1])
    texts = [embed_all(base, ["a fox"], store).hidden for base in bases]
    latents = [
        LatentCache(base.vae, store)("0" * 64, CUT, lambda: Image.new("RGB", (32, 32), "red"), "red.png")["mean"]
        for base in bases
    ]
    assert torch.equal(*texts) is (part == "vae") and torch.equal(*latents) is (part != "vae")


def test_a_copy_elsewhere_finds_what_was_kept(tmp_path):
    folder, store = write_tiny_sd(tmp_path / "tiny"), Store(tmp_path / "cache")
    embed_all(load_base(str(folder)), ["a fox"], store)
    embed_all(load_base(str(folder.rename(tmp_path / "moved"))), ["a fox"], store)
    assert (store.made["texts"], store.found["texts"]) == (1, 1)


@pytest.mark.parametrize(
    "change",
    [
        lambda base: base.to(dtype=torch.float16),
        lambda base: replace(base, scheduler=base.scheduler.from_config(base.scheduler.config, steps_offset=0)),
        lambda base: replace(base, force_zeros_for_empty_prompt=False),
        lambda base: replace(base, defaults=base.defaults | {"steps": 3}),
        lambda base: replace(base, defaults=base.defaults | {"guidance": 3.0}),
    ],
    ids=["dtype", "sampler", "force_zeros_for_empty_prompt", "steps", "guidance"],
)
def test_pictures_drawn_otherwise_are_kept_under_another_key(change):
    assert drawn_by(tiny_base("sdxl")) == drawn_by(tiny_base("sdxl")) != drawn_by(change(tiny_base("sdxl")))


def test_the_end_of_a_long_caption_is_told_by_us_alone(tmp_path, caplog):
    base = load_base(str(write_tiny_sd(tmp_path / "tiny")))
    assert cut_off(base.tokenizers[0], "a toy " * 60).endswith("a toy")
    assert "indexing errors" not in caplog.text
