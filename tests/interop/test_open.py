from __future__ import annotations

import pytest
import torch
from accelerate import cpu_offload
from helpers.tiny_bases import adapted, base_answers, distance, tiny_base, write_base

from symdream.diffusion.adapters import Disabled
from symdream.errors import RequestError
from symdream.interop.attach import attach_adapter
from symdream.interop.lora_file import write_diffusers_lora
from symdream.interop.open import base_of, differences, open_adapter
from symdream.interop.read import read_adapter

SPRITE = {"base": {"identity": "sprite", "hash": "ab" * 32}}


def test_a_file_opens_on_the_base_that_is_named(tmp_path, capsys):
    trained = adapted("sd1", "dora")
    file = tmp_path / "dog é.safetensors"
    write_diffusers_lora(trained, file, {"trigger": "sks", **SPRITE})
    folder = write_base(tiny_base("sd1"), tmp_path / "my base")
    base, metadata = open_adapter(file, base=str(folder))
    assert distance(base_answers(base), base_answers(trained)) < 1e-5
    assert metadata["trigger"] == "sks"
    assert "was trained on sprite, and is now on folder:my base" in capsys.readouterr().err


def test_another_architecture_is_refused(tmp_path):
    write_diffusers_lora(adapted("sdxl", "lora"), tmp_path / "x.safetensors", {})
    folder = write_base(tiny_base("sd1"), tmp_path / "base")
    with pytest.raises(RequestError, match="another architecture|0 of"):
        open_adapter(tmp_path / "x.safetensors", base=str(folder))


def test_the_run_names_its_base_before_the_file_does(tmp_path):
    (tmp_path / "config.toml").write_text('[model]\nbase = "sd15"\n')
    assert base_of(tmp_path, SPRITE) == "sd15"
    (tmp_path / "config.toml").write_text("[model]\n")
    with pytest.raises(RequestError, match="does not name the base"):
        base_of(tmp_path, SPRITE)


def test_the_file_names_its_base_and_sprite_is_tried_where_it_does_not(tmp_path, capsys):
    file = tmp_path / "x.safetensors"
    assert base_of(file, SPRITE) == "sprite"
    assert base_of(file, {"base": {"identity": "owner/name@abc"}}) == "owner/name@abc"
    assert not capsys.readouterr().err
    assert base_of(file, {}) == "sprite"
    assert "does not say which base" in capsys.readouterr().err


@pytest.mark.parametrize("identity", ["folder:models", "file:dream.safetensors"])
def test_a_base_that_only_the_trainer_knew_must_be_named(identity, tmp_path):
    with pytest.raises(RequestError, match="--base PATH/" + identity.split(":")[1]):
        base_of(tmp_path / "x.safetensors", {"base": {"identity": identity}})


def test_the_same_name_with_other_weights_is_told():
    base = tiny_base("sd1")
    same = {"base": {"identity": base.identity, "hash": base.hash}}
    assert differences(base, same) == [] and differences(base, {}) == []
    same["base"]["hash"] = "1" * 64
    assert "have changed" in differences(base, same)[0]


@pytest.mark.parametrize("method", ["lora", "singlora", "symlora"])
def test_an_adapter_works_under_offloading_but_must_be_there_before(method, tmp_path):
    base = adapted("sd1", method)
    expected = base_answers(base)
    write_diffusers_lora(base, tmp_path / "a.safetensors", {})
    for model in base.components().values():
        cpu_offload(model, execution_device=torch.device("cpu"))
    assert distance(base_answers(base), expected) < 1e-6
    offloaded = tiny_base("sd1")
    for model in offloaded.components().values():
        cpu_offload(model, execution_device=torch.device("cpu"))
    before = base_answers(offloaded)
    with pytest.raises(RequestError, match="then enable offloading"):
        attach_adapter(offloaded.components(), read_adapter(tmp_path / "a.safetensors"))
    assert distance(base_answers(offloaded), before) == 0


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_a_base_that_is_stored_in_8_bits_layer_by_layer_keeps_its_adapter(method):
    """What the adapter changes is the same picture, of a base that 8 bits have changed more than that."""

    def changed(base):
        [with_it, *_] = base_answers(base)
        with Disabled(base):
            [without, *_] = base_answers(base)
        return (with_it - without).flatten()

    base = adapted("sd1", method)
    expected = changed(base)
    base.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert torch.cosine_similarity(changed(base), expected, dim=0) > 0.95
