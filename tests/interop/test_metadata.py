from __future__ import annotations

import hashlib
import json
from io import BytesIO

import pytest
import torch
from helpers.tiny_bases import FAMILIES, adapted
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

from symdream.interop.collect import collect
from symdream.interop.companions import usage
from symdream.interop.export import export
from symdream.interop.inspect import inspect_adapter
from symdream.interop.keys import Place
from symdream.interop.layers import Adapter, PlainLayer
from symdream.interop.lora_file import base_facts, write_diffusers_lora, write_lora
from symdream.interop.metadata import family_of, foreign_facts, hash_texts, recommended_weight
from symdream.interop.open import base_of
from symdream.interop.read import read_adapter

OURS = {
    "method": "symlora",
    "base": {"identity": "sprite", "hash": "ab" * 32},
    "trigger": "sks",
    "class_noun": "vélo",
    "prompts": ["a glossy icon of a sks vélo"],
    "steps": 200,
    "step": 200,
    "seed": 3,
    "licence": "CC BY 4.0",
    "resolution": 128,
}


def texts_of(path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


@pytest.fixture(params=["diffusers", "kohya"])
def exported(request, tmp_path):
    adapter = collect(adapted("sd1", "symlora").components(), metadata={**OURS, "family": "sd1"})
    path = tmp_path / "my vélo.safetensors"
    write_lora(adapter, path, request.param)
    return path, texts_of(path)


def test_the_header_tells_trigger_base_rank_and_size_in_every_tools_words(exported):
    _, texts = exported
    assert json.loads(texts["symdream"]) == {**OURS, "family": "sd1"}
    assert texts["ss_output_name"] == "my vélo"
    assert (texts["ss_network_dim"], texts["ss_network_module"]) == ("4", "networks.lora")
    assert (texts["ss_base_model_version"], texts["ss_v2"]) == ("sd_v1", "False")
    assert texts["ss_new_sd_model_hash"] == "ab" * 32
    assert texts["ss_resolution"] == "(128, 128)" and texts["modelspec.resolution"] == "128x128"
    assert list(json.loads(texts["ss_tag_frequency"])["symdream"]) == ["sks vélo"]
    assert texts["modelspec.architecture"] == "stable-diffusion-v1/lora"
    assert texts["modelspec.trigger_phrase"] == "sks vélo"
    assert texts["modelspec.license"] == "CC BY 4.0"


@pytest.mark.parametrize("metadata", [{}, {"licence": "unknown"}])
def test_a_licence_that_is_not_known_is_left_out(tmp_path, metadata):
    adapter = collect(adapted("sd1", "lora").components(), metadata={**metadata, "family": "sd1"})
    write_lora(adapter, tmp_path / "x.safetensors", "kohya")
    assert "modelspec.license" not in texts_of(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("family", "prediction_type", "told", "architecture"),
    [
        ("sd2", "v_prediction", "v", "stable-diffusion-v2-768-v/lora"),
        ("sd2", "epsilon", "epsilon", "stable-diffusion-v2-512/lora"),
        ("sdxl", "v_prediction", "v", "stable-diffusion-xl-v1-base/lora"),
    ],
)
def test_what_the_base_predicts_is_told_in_modelspecs_words(tmp_path, family, prediction_type, told, architecture):
    place = Place("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    metadata = {"family": family, "prediction_type": prediction_type}
    adapter = Adapter({place: PlainLayer(torch.ones(2, 8), torch.ones(8, 2))}, metadata)
    write_lora(adapter, tmp_path / "x.safetensors", "diffusers")
    texts = texts_of(tmp_path / "x.safetensors")
    assert (texts["modelspec.prediction_type"], texts["modelspec.architecture"]) == (told, architecture)


@pytest.mark.parametrize(
    ("family", "layout", "told"),
    [
        ("sdxl", "kohya", "https://github.com/Stability-AI/generative-models"),
        ("sdxl", "diffusers", "diffusers"),
        ("sd1", "kohya", "diffusers"),
    ],
)
def test_whose_names_the_layers_have_is_told_in_modelspecs_words(tmp_path, family, layout, told):
    place = Place("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    adapter = Adapter({place: PlainLayer(torch.ones(2, 8), torch.ones(8, 2))}, {"family": family})
    write_lora(adapter, tmp_path / "x.safetensors", layout)
    assert texts_of(tmp_path / "x.safetensors")["modelspec.implementation"] == told


def test_the_hashes_are_those_that_kohyas_tools_compute(exported):
    path, texts = exported
    # As sd-scripts defines them: over the file that would hold the same tensors and only the ss_ keys.
    content = save(load_file(path), {k: v for k, v in texts.items() if k.startswith("ss_")})
    stream = BytesIO(content)
    length = int.from_bytes(stream.read(8), "little")
    stream.seek(8 + length)
    assert texts["sshs_model_hash"] == hashlib.sha256(stream.read()).hexdigest()
    stream.seek(0x100000)
    assert texts["sshs_legacy_hash"] == hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]
    # Metadata do not change the bytes after the header, so A1111 finds the same hash in our file.
    whole = path.read_bytes()
    data = whole[8 + int.from_bytes(whole[:8], "little") :]
    assert texts["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()


def test_the_elder_hash_is_over_the_64_kib_after_the_first_mib():
    content = save({"x": torch.randn(300_000, generator=torch.Generator().manual_seed(0))})
    assert len(content) > 0x110000
    stream = BytesIO(content)
    stream.seek(0x100000)
    assert hash_texts(content)["sshs_legacy_hash"] == hashlib.sha256(stream.read(0x10000)).hexdigest()[:8]


def test_alpha_in_the_header_is_the_files_alpha(tmp_path):
    adapter = collect(adapted("sd1", "lora", alpha=3.0).components())
    write_lora(adapter, tmp_path / "k.safetensors", "kohya")
    write_lora(adapter, tmp_path / "d.safetensors", "diffusers")
    assert texts_of(tmp_path / "k.safetensors")["ss_network_alpha"] == "3"
    assert texts_of(tmp_path / "d.safetensors")["ss_network_alpha"] == "4", "folded into B: alpha is the rank"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_family_is_written_and_otherwise_told_by_the_layers(family, tmp_path):
    base = adapted(family, "lora")
    write_diffusers_lora(base, tmp_path / "x.safetensors", {})
    names = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
    texts = texts_of(tmp_path / "x.safetensors")
    assert texts["ss_base_model_version"] == names[family]
    assert json.loads(texts["symdream"]) == base_facts(base)
    adapter = collect(base.components())
    assert family_of(adapter.layers, {}) == ("sdxl" if family == "sdxl" else "sd1")


def test_text_states_of_1024_tell_sd2():
    class Layer:
        A = torch.ones(2, 1024)

    assert family_of({Place("unet", "up_blocks.1.x.attn2.to_k"): Layer}, {}) == "sd2"


def test_the_inner_width_of_a_text_encoder_tells_nothing():
    layers = {
        Place("text_encoder", f"text_model.encoder.layers.0.{name}"): PlainLayer(torch.ones(2, n), torch.ones(m, 2))
        for name, n, m in (("mlp.fc1", 1024, 4096), ("mlp.fc2", 4096, 1024), ("self_attn.q_proj", 1024, 1024))
    }
    assert family_of(layers, {}) == "sd2"


def test_the_text_beside_the_file_tells_how_to_use_it():
    text = usage("velo", OURS)
    assert "trigger  sks vélo" in text and "<lora:velo:1>" in text
    prompts = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(prompts) == 3 and prompts[0] == "  a glossy icon of a sks vélo"
    assert all("sks vélo" in prompt for prompt in prompts)
    assert "unknown" in usage("x", {})


@pytest.mark.parametrize(("told", "identity"), [("sprite", "sprite"), (["sprite"], None), (7, None), (None, None)])
def test_a_base_told_in_another_form_is_its_name_or_unknown(tmp_path, told, identity):
    adapter = collect(adapted("sd1", "lora").components(), metadata={"base": told, "trigger": "sks"})
    write_lora(adapter, tmp_path / "a.safetensors", "diffusers")
    assert inspect_adapter(tmp_path / "a.safetensors")["base"] == identity
    export(tmp_path / "a.safetensors", "kohya", tmp_path / "b.safetensors")
    assert texts_of(tmp_path / "b.safetensors").get("ss_sd_model_name") == identity
    assert base_of(tmp_path, adapter.metadata) == "sprite"


@pytest.mark.parametrize("weight", [0.8, 1, 11.99, 1e6])
def test_the_weight_that_was_found_best_is_read_however_large(weight):
    assert recommended_weight({"recommended_weight": weight}) == weight


@pytest.mark.parametrize("weight", [None, "2", 0, -1.0, float("nan"), float("inf"), 10**400])
def test_what_is_no_weight_counts_as_none(weight):
    assert recommended_weight({"recommended_weight": weight}) == 1.0


@pytest.mark.parametrize(
    ("texts", "family"),
    [
        ({"ss_base_model_version": "sd_v1"}, "sd1"),
        ({"ss_base_model_version": "sd_v2_768_v"}, "sd2"),
        ({"ss_base_model_version": "sdxl_base_v1-0"}, "sdxl"),
        ({"ss_base_model_version": "sdxl_base_v0-9", "ss_v2": "False"}, "sdxl"),
        ({"ss_v2": "True"}, "sd2"),  # all that elder versions of sd-scripts wrote
        ({"ss_v2": "False"}, None),
        ({"ss_base_model_version": "flux1"}, None),
        ({}, None),
    ],
)
def test_the_family_is_what_either_of_sd_scripts_words_tells(texts, family):
    assert foreign_facts(texts).get("family") == family


def test_what_another_programs_header_tells_is_told_again_and_what_it_does_not_is_left_out(tmp_path):
    name, A = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q", torch.randn(2, 8)
    tensors = {f"{name}.lora_down.weight": A, f"{name}.lora_up.weight": A.T.contiguous()}
    known = {
        "ss_base_model_version": "sd_v2_768_v", "ss_v2": "True", "ss_sd_model_name": "v2.safetensors",
        "modelspec.prediction_type": "v", "modelspec.trigger_phrase": "ohwx dog",
        "modelspec.license": "CC0", "modelspec.resolution": "768x768",
    }  # fmt: skip
    save_file(tensors, tmp_path / "told.safetensors", known)
    save_file(tensors, tmp_path / "silent.safetensors", {"ss_steps": "3"})
    for name in ("told", "silent"):
        export(tmp_path / f"{name}.safetensors", "diffusers", tmp_path / f"{name} again.safetensors")
    again = texts_of(tmp_path / "told again.safetensors")
    same = (
        "ss_v2",
        "modelspec.prediction_type",
        "modelspec.trigger_phrase",
        "modelspec.license",
        "modelspec.resolution",
    )
    assert {key: again[key] for key in same} == {key: known[key] for key in same}
    assert again["ss_base_model_version"] == "sd_v2"
    assert "ohwx dog" in (tmp_path / "told again.txt").read_text()
    assert "modelspec.prediction_type" not in texts_of(tmp_path / "silent again.safetensors")


@pytest.mark.parametrize(
    "told",
    [
        {"trigger": 5, "class_noun": ["dog"], "base": {"identity": 7, "hash": []}},
        {"trigger": {"a": 1}, "family": [], "prompts": 7, "base": ["sprite"], "resolution": "big"},
        {"class_noun": None, "prediction_type": {}},
    ],
)
def test_what_is_not_of_our_type_in_our_metadata_counts_as_not_told(told, tmp_path):
    place = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"unet.{place}.lora_A.weight": torch.ones(2, 8), f"unet.{place}.lora_B.weight": torch.ones(8, 2)}
    path, kept = tmp_path / "x.safetensors", {"steps": 7, "note": ["kept"]}
    save_file(tensors, path, {"symdream": json.dumps(told | kept)})
    expected = kept | ({"base": {}} if isinstance(told.get("base"), dict) else {})
    assert read_adapter(path).metadata == expected
    facts = inspect_adapter(path)
    assert (facts["trigger"], facts["base"]) == (None, None)
    result = export(path, "kohya", tmp_path / "y.safetensors")
    assert "unknown (the file does not tell)" in result.companions[0].read_text()
