"""Bases to measure on: the embedded one, and Stable Diffusion's published shapes with random weights.

Time and memory depend on the shapes alone, so no download is needed. The figures are those of the published configs
(stable-diffusion-v1-5 and stable-diffusion-xl-base-1.0: unet, vae and text encoders); the tokenizer is the embedded
base's, which knows fewer words.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from symdream.diffusion.base import SAMPLING_DEFAULTS, Base, load_base
from symdream.diffusion.embedded import sprite_folder

UNETS = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sdxl": {
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
    },
}
CLIP_L = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "latent_channels": 4,
}
NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SHAPES = ("sprite", *UNETS)


def make_base(shape: str, device: torch.device | str, dtype: torch.dtype) -> Base:
    """A base of this shape, made as `load_base` leaves one: in eval mode, in channels_last.

    Raises: ValueError for a shape that is not in SHAPES.
    """
    if shape not in SHAPES:
        raise ValueError(f"shape {shape!r}: know {', '.join(SHAPES)}")
    if shape == "sprite":
        return load_base("sprite", device=device, dtype=dtype)
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(sprite_folder("sprite-diffusion") / "tokenizer", local_files_only=True)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "vocab_size": 49408}
    scaling = 0.13025 if shape == "sdxl" else 0.18215
    torch.manual_seed(0)
    with torch.device(device):  # drawn where they will live: a billion random numbers take long on a CPU
        unet = UNet2DConditionModel(**UNETS[shape])
        vae = AutoencoderKL(**VAE, sample_size=8 * UNETS[shape]["sample_size"], scaling_factor=scaling)
        encoders: list[nn.Module] = [CLIPTextModel(CLIPTextConfig(**CLIP_L, projection_dim=768, **ends))]
        if shape == "sdxl":
            second = CLIPTextConfig(**CLIP_G, projection_dim=1280, hidden_act="gelu", **ends)
            encoders.append(CLIPTextModelWithProjection(second))
    for module in (unet, vae, *encoders):
        module.eval().requires_grad_(False)
    base = Base(
        name=shape,
        identity=f"benchmark:{shape}",
        family="sdxl" if shape == "sdxl" else "sd1",
        unet=unet,
        vae=vae,
        text_encoders=encoders,
        tokenizers=[tokenizer] * len(encoders),
        scheduler=DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        prediction_type="epsilon",
        resolution=8 * UNETS[shape]["sample_size"],
        defaults=dict(SAMPLING_DEFAULTS),
        hasher=lambda: "0" * 64,
    ).to(device, dtype)
    for module in (unet, vae):
        nn.Module.to(module, memory_format=torch.channels_last)
    return base


def shared_copy(module: nn.Module) -> nn.Module:
    """The same module again, over the same weights: adapters put on it leave the first one alone."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def shared_base(base: Base) -> Base:
    """The same base again, over the same weights."""
    again = copy.copy(base)
    again.unet, again.vae = shared_copy(base.unet), base.vae
    again.text_encoders = [shared_copy(encoder) for encoder in base.text_encoders]
    return again


def write_base(base: Base, folder: Path) -> Path:
    """The base as a diffusers folder, which `load_base` and diffusers' own loaders read."""
    base.pipeline().save_pretrained(folder)
    return folder


def weight_bytes(*modules: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for module in modules for p in module.parameters())
