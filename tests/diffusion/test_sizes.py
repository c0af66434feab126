"""The figures behind download sizes and forecasts, counted again on the meta device."""

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from helpers.sd_configs import CLIP_L_TEXT, SD15_UNET
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from symdream.diffusion.base import load_base
from symdream.diffusion.original_layout import clip_config
from symdream.diffusion.sizes import KNOWN, download_bytes

SDXL_UNET = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
SD_VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def meta_models():
    with torch.device("meta"):
        clip_l = CLIPTextModel(CLIPTextConfig(**CLIP_L_TEXT))
        clip_g = CLIPTextModelWithProjection(CLIPTextConfig(**clip_config(49408, 1280, 32, 5120, openclip=True)))
        return {
            "sd15": (UNet2DConditionModel(**SD15_UNET), [clip_l]),
            "sdxl": (UNet2DConditionModel(**SDXL_UNET), [clip_l, clip_g]),
            "vae": AutoencoderKL(**SD_VAE),
        }


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_the_parameter_counts_are_exact(meta_models, name):
    unet, texts = meta_models[name]
    known = KNOWN[name]
    assert (known.unet, known.vae, known.text) == (count(unet), count(meta_models["vae"]), sum(map(count, texts)))


def test_sprites_counts_are_those_of_the_base():
    base, known = load_base("sprite"), KNOWN["sprite"]
    assert (known.unet, known.vae, known.text) == (count(base.unet), count(base.vae), count(base.text_encoder))


def test_the_work_of_a_forward_is_counted_right(meta_models):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        meta_models["sd15"][0](torch.empty(1, 4, 64, 64), torch.ones(1), torch.empty(1, 77, 768))
    assert counter.get_total_flops() == pytest.approx(KNOWN["sd15"].flops, rel=0.01)


def test_the_download_is_half_precision_of_all_parts():
    assert download_bytes("sd15") == 2 * (859_520_964 + 83_653_863 + 123_060_480)
