"""PEFT's adapters with settings of their own: as strong as PEFT makes them, or refused."""

import json
import shutil

import pytest
import torch
from helpers.adapters import randomize
from helpers.tiny_bases import tiny_base
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraGAConfig, preprocess_loraga
from safetensors.torch import load_file, save_file

from symdream.errors import RequestError
from symdream.interop.attach import attach_adapter
from symdream.interop.inspect import inspect_adapter
from symdream.interop.metadata import PEFT_METADATA
from symdream.interop.read import read_adapter

LATENTS = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
STATES = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def answer(unet):
    return unet(LATENTS, torch.tensor([3]), encoder_hidden_states=STATES).sample


def saved(folder, **settings):
    torch.manual_seed(0)
    model = get_peft_model(tiny_base("sd1").unet, LoraConfig(r=4, target_modules=["to_q", "to_k"], **settings))
    randomize(model)
    model.save_pretrained(folder / "unet")
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"alpha_pattern": {"to_q": 32}},
        {"alpha_pattern": {".*attn1.*": 32}},
        {"alpha_pattern": {r"up_blocks\..*": 32}},
        {"alpha_pattern": {"attn1.to_q": 32, "to_q": 2}},
        {"rank_pattern": {".*attn1.*": 2}, "alpha_pattern": {r".*attn2\.to_(q|k)": 3}},
    ],
)
def test_strengths_are_those_that_peft_gives(settings, tmp_path):
    saved(tmp_path, lora_alpha=8, **settings)
    expected = answer(PeftModel.from_pretrained(tiny_base("sd1").unet, tmp_path / "unet"))
    unet = tiny_base("sd1").unet
    assert (answer(unet) - expected).norm() > 0.1
    attach_adapter({"unet": unet}, read_adapter(tmp_path))
    torch.testing.assert_close(answer(unet), expected, rtol=1e-5, atol=1e-5)


def test_a_file_under_another_name_has_the_strength_of_the_configuration_beside_it(tmp_path):
    saved(tmp_path, lora_alpha=16)
    (tmp_path / "unet" / "adapter_model.safetensors").rename(tmp_path / "unet" / "owl.safetensors")
    adapter = read_adapter(tmp_path / "unet" / "owl.safetensors")
    assert {layer.scale for layer in adapter.layers.values()} == {4.0} and not adapter.notes


def test_a_configuration_that_may_be_of_another_file_is_not_used_and_that_is_told(tmp_path):
    saved(tmp_path, lora_alpha=16)
    shutil.copyfile(tmp_path / "unet" / "adapter_model.safetensors", tmp_path / "unet" / "owl.safetensors")
    adapter = read_adapter(tmp_path / "unet" / "owl.safetensors")
    assert {layer.scale for layer in adapter.layers.values()} == {1.0}
    assert len(adapter.notes) == 1 and "may be of another file there" in adapter.notes[0]
    assert {layer.scale for layer in read_adapter(tmp_path / "unet").layers.values()} == {4.0}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_bias": True}, "trains biases"),
        ({"init_lora_weights": "pissa"}, "changes the base's own weights"),
        ({"init_lora_weights": "olora"}, "changes the base's own weights"),
        ({"init_lora_weights": "OLoRA"}, "changes the base's own weights"),  # PEFT takes it in capitals too
    ],
)
def test_what_no_plain_lora_can_hold_is_refused(settings, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        read_adapter(saved(tmp_path, **settings))


def test_an_adapter_that_was_begun_from_gradients_is_refused_since_its_base_is_another(tmp_path):
    unet = tiny_base("sd1").unet
    config = LoraConfig(r=4, target_modules=["to_q"], init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig())

    def step():
        unet(LATENTS, torch.tensor([3]), encoder_hidden_states=STATES).sample.square().sum().backward()

    preprocess_loraga(unet, config, step)
    model = get_peft_model(unet, config)
    expected = answer(model)
    model.save_pretrained(tmp_path / "unet")
    loaded = PeftModel.from_pretrained(tiny_base("sd1").unet, tmp_path / "unet")
    torch.testing.assert_close(expected, answer(tiny_base("sd1").unet), rtol=1e-4, atol=1e-4)
    assert (answer(loaded) - expected).norm() > 0.1  # PEFT itself loads it onto the wrong base
    with pytest.raises(RequestError, match="changes the base's own weights"):
        read_adapter(tmp_path)


def test_a_pattern_that_is_none_is_told(tmp_path):
    saved(tmp_path, alpha_pattern={"to_q": 32})
    config = tmp_path / "unet" / "adapter_config.json"
    config.write_text(config.read_text().replace('"to_q": 32', '"to_(q": 32'))
    with pytest.raises(RequestError, match="no regular expression"):
        read_adapter(tmp_path)


@pytest.mark.parametrize("file", ["beside", "metadata"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("lora_alpha", value) for value in ("8", None, [8], True, float("nan"), 10**400)),
        *(("alpha_pattern", value) for value in ([1], "to_q", {"to_q": "8"}, {"to_q": None})),
    ],
)
def test_a_strength_that_is_no_number_is_told(file, key, value, tmp_path):
    saved(tmp_path, lora_alpha=8)
    config, weights = tmp_path / "unet" / "adapter_config.json", tmp_path / "unet" / "adapter_model.safetensors"
    settings = json.dumps(json.loads(config.read_text()) | {key: value})
    if file == "beside":
        config.write_text(settings)
    else:
        config.unlink()
        save_file(load_file(weights), weights, {PEFT_METADATA: settings})
    for read in (read_adapter, inspect_adapter):
        with pytest.raises(RequestError, match=f"^{key} is .* is expected") as caught:
            read(tmp_path)
        assert str(config if file == "beside" else weights) in caught.value.where


def test_ranks_are_those_of_the_weights_whatever_the_configuration_says_of_them(tmp_path):
    saved(tmp_path, lora_alpha=8)
    config = tmp_path / "unet" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": "4", "rank_pattern": [1]}))
    assert {layer.scale for layer in read_adapter(tmp_path).layers.values()} == {2.0}


@pytest.mark.parametrize("text", ["[" * 50_000, "[1]", "{"])
def test_a_configuration_that_is_no_json_object_is_told(text, tmp_path):
    saved(tmp_path)
    (tmp_path / "unet" / "adapter_config.json").write_text(text)
    with pytest.raises(RequestError, match="is not valid JSON|holds no JSON object"):
        read_adapter(tmp_path)


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        *(("u", {"u": u}) for u in ("1", [], float("inf"))),
        *(("shapes", {"shapes": {"mid_block.to_q": shape}}) for shape in (8, [8], [8, "8"], "88", [True, True])),
    ],
)
def test_malformed_metadata_of_a_symmetric_adapter_are_told(key, changes, tmp_path):
    path = tmp_path / "x.safetensors"
    ours = {"alpha": 2, "shapes": {"mid_block.to_q": [8, 8]}}
    save_file({"unet.mid_block.to_q.singlora_A": torch.ones(2, 8)}, path, {"symdream": json.dumps(ours)})
    assert read_adapter(path).layers
    save_file({"unet.mid_block.to_q.singlora_A": torch.ones(2, 8)}, path, {"symdream": json.dumps(ours | changes)})
    for read in (read_adapter, inspect_adapter):
        with pytest.raises(RequestError, match=f"^{key} is .* is expected"):
            read(path)
