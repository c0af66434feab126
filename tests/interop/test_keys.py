from __future__ import annotations

import pytest
from helpers.original_names import original_unet_module
from helpers.tiny_models import tiny_parts
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from symdream.errors import RequestError
from symdream.interop.keys import (
    DOWN,
    MAGNITUDE,
    UP,
    Key,
    Place,
    kohya_module,
    kohya_name,
    parse_key,
    with_text_model,
    without_text_model,
)

TO_K = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
Q_PROJ = "text_model.encoder.layers.3.self_attn.q_proj"


FAMILIES = ("sd1", "sd2", "sdxl")


def places(family: str) -> list[Place]:
    """Every linear layer and convolution of a family's UNet and text encoders."""
    return [
        Place(component, with_text_model(name))
        for component, model in tiny_parts(family).items()
        if component != "vae"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (component == "unet" and isinstance(module, nn.Conv2d))
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_comes_back_from_its_kohya_name_and_none_shares_it(family):
    names = {place: kohya_name(place, family == "sdxl") for place in places(family)}
    for place, name in names.items():
        assert parse_key(name + ".lora_down.weight") == Key("kohya", place.component, place.module, DOWN)
    assert len(set(names.values())) == len(names)


def test_kohya_has_original_names_in_sdxls_unet_and_diffusers_names_in_the_others():
    unet = tiny_parts("sdxl")["unet"]
    for place in places("sdxl"):
        if place.component == "unet":
            original = original_unet_module(place.module, unet)
            assert kohya_name(place, True) == f"lora_unet_{original.replace('.', '_')}"
            assert kohya_name(place, False) == f"lora_unet_{place.module.replace('.', '_')}"


@pytest.mark.parametrize(
    "module",
    [
        "down_blocks.3.resnets.0.conv1",
        "up_blocks.3.upsamplers.0.conv",
        "down_blocks.1.attentions.4.proj_in",
        "down_blocks.0.motion_modules.0.proj_in",
        "mid_block.downsamplers.0.conv",
        "x",
    ],
)
def test_what_sdxl_does_not_have_gets_no_name_of_another_layer(module):
    with pytest.raises(RequestError, match=f"unet.{module} is no layer of SDXL's UNet"):
        kohya_name(Place("unet", module), True)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_of_the_unet_comes_back_from_its_original_name(family):
    unet = tiny_parts(family)["unet"]
    for name, module in unet.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            original = original_unet_module(name, unet)
            for key in (f"lora_unet_{original.replace('.', '_')}", f"diffusion_model.{original}"):
                assert parse_key(f"{key}.lora_up.weight").module == name


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (f"unet.{TO_K}.lora_A.weight", Key("diffusers", "unet", TO_K, DOWN)),
        (f"unet.{TO_K}.lora.up.weight", Key("diffusers", "unet", TO_K, UP)),
        (f"unet.{TO_K}.lora_magnitude_vector", Key("diffusers", "unet", TO_K, MAGNITUDE)),
        (f"unet.{TO_K[:-5]}.processor.to_k_lora.down.weight", Key("diffusers", "unet", TO_K, DOWN)),
        (f"{TO_K[:-5]}.processor.to_k_lora.down.weight", Key("diffusers", "unet", TO_K, DOWN)),
        (f"unet.{TO_K}.lora_A.default_0.weight", Key("diffusers", "unet", TO_K, DOWN)),
        (f"base_model.model.{TO_K}.lora_B.weight", Key("peft", None, TO_K, UP)),
        (f"base_model.model.{TO_K}.singlora_A", Key("native", None, TO_K, "singlora_A")),
        (f"text_encoder.{Q_PROJ}.lora_A.weight", Key("diffusers", "text_encoder", Q_PROJ, DOWN)),
        (f"text_encoder_2.{Q_PROJ}.lora_A.weight", Key("diffusers", "text_encoder_2", Q_PROJ, DOWN)),
        (f"text_encoder.{Q_PROJ[11:]}.lora_A.weight", Key("diffusers", "text_encoder", Q_PROJ, DOWN)),
        (f"lora_te1_{Q_PROJ.replace('.', '_')}.dora_scale", Key("kohya", "text_encoder", Q_PROJ, MAGNITUDE)),
        (f"diffusion_model.input_blocks.4.1.{TO_K[27:]}.lora_up.weight", Key("comfyui", "unet", TO_K, UP)),
        (f"text_encoders.clip_l.transformer.{Q_PROJ}.lora_up.weight", Key("comfyui", "text_encoder", Q_PROJ, UP)),
        (f"text_encoders.clip_g.transformer.{Q_PROJ}.lora_up.weight", Key("comfyui", "text_encoder_2", Q_PROJ, UP)),
    ],
)
def test_keys_of_each_layout_are_understood(key, expected):
    assert parse_key(key) == expected


@pytest.mark.parametrize(
    "key",
    [
        "unet.conv_in.weight",
        "lora_unet_x.hada_w1_a",
        "lora_transformer_x.lora_down.weight",
        "vae.x.lora_A.weight",
        "lora_unet_input_blocks_0_0_op.lora_down.weight",
        "lora_unet_input_blocks_1_0_in_layers_7.lora_down.weight",
        "lora_unet_down_blocks_0_motion_modules_0_proj_in.lora_down.weight",
        "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight",
        "lora_te_embeddings.lora_down.weight",
        "diffusion_model.double_blocks.0.img_attn.proj.lora_up.weight",
        "",
    ],
)
def test_keys_of_other_things_are_not(key):
    assert parse_key(key) is None


@pytest.mark.parametrize(
    ("sgm", "diffusers"),
    [
        ("input_blocks_4_1_proj_out", "down_blocks.1.attentions.0.proj_out"),
        ("input_blocks_8_1_proj_in", "down_blocks.2.attentions.1.proj_in"),
        ("middle_block_1_transformer_blocks_9_ff_net_2", "mid_block.attentions.0.transformer_blocks.9.ff.net.2"),
        (
            "output_blocks_5_1_transformer_blocks_1_attn2_to_out_0",
            "up_blocks.1.attentions.2.transformer_blocks.1.attn2.to_out.0",
        ),
    ],
)
def test_stability_ais_block_names_become_diffusers_names(sgm, diffusers):
    assert kohya_module(sgm) == diffusers


@given(st.text(max_size=80))
def test_any_text_is_parsed_or_refused_without_an_error(text):
    assert parse_key(text) is None or parse_key(text).module is not None


@given(st.integers(0, 40), st.sampled_from(["q_proj", "k_proj", "v_proj", "out_proj"]))
def test_text_model_comes_and_goes(layer, projection):
    module = f"encoder.layers.{layer}.self_attn.{projection}"
    assert without_text_model(with_text_model(module)) == module
    assert with_text_model(with_text_model(module)) == with_text_model(module)
