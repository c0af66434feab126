"""Small Stable Diffusion models in the real layouts, for tests of loading and training.

The block structure and the attention layout are the real ones (SD 1.x and 2.x: 4 levels, 16 transformer blocks,
128 attention projections in the UNet; SDXL: 3 levels, none in the first), only narrow: 32 and 64 channels,
64-pixel pictures, latents 4x8x8. A training step at batch 1 takes about 0.15 s on one CPU core. Weights are
random and depend on `seed` alone.

    write_tiny_sd(tmp_path / "sd1")                              a diffusers folder; "sks" is one token
    write_tiny_sd(tmp_path / "sd2", "sd2", text_width=1024)      v-prediction, as wide a text as the real SD 2.x
    write_tiny_sd(tmp_path / "xl", "sdxl", variant="fp16")       weights only as fp16
    write_tiny_single_file(tmp_path / "x.safetensors", "sdxl")   one file, original names, CLIP's vocabulary
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from helpers.original_names import original_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from symdream.diffusion.embedded import sprite_folder

CLIP_VOCABULARY, SPRITE_VOCABULARY = 49408, 2018
TINY_RESOLUTION = 64


def tiny_parts(
    family: str = "sd1",
    *,
    text_width: int = 32,
    vocabulary: int = SPRITE_VOCABULARY,
    in_channels: int = 4,
    seed: int = 0,
) -> dict[str, torch.nn.Module]:
    """unet, vae, text_encoder[, text_encoder_2] with random weights, in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = {
            "unet": UNet2DConditionModel(**_unet_config(family, text_width, in_channels)),
            "vae": AutoencoderKL(**_vae_config(family)),
            "text_encoder": CLIPTextModel(_text_config(text_width, vocabulary, openclip=family == "sd2")),
        }
        if family == "sdxl":
            second = _text_config(text_width, vocabulary, openclip=True)
            parts["text_encoder_2"] = CLIPTextModelWithProjection(second)
    return {name: module.eval() for name, module in parts.items()}


def _unet_config(family: str, text_width: int, in_channels: int) -> dict:
    shared = {"sample_size": TINY_RESOLUTION // 8, "in_channels": in_channels, "layers_per_block": 2}
    if family == "sdxl":
        return shared | {
            "block_out_channels": (32, 64, 64),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "transformer_layers_per_block": (1, 1, 2),
            "attention_head_dim": (1, 1, 1),
            "cross_attention_dim": 2 * text_width,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": text_width + 6 * 256,
        }
    return shared | {
        "block_out_channels": (32, 32, 64, 64),
        "attention_head_dim": 8 if family == "sd1" else (1, 1, 1, 1),
        "cross_attention_dim": text_width,
        "use_linear_projection": family == "sd2",
    }


def _vae_config(family: str) -> dict:
    return {
        "block_out_channels": (32, 32, 32, 32),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "sample_size": TINY_RESOLUTION,
        "scaling_factor": 0.13025 if family == "sdxl" else 0.18215,
    }


def _text_config(width: int, vocabulary: int, *, openclip: bool) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 64),
        projection_dim=width,
        hidden_act="gelu" if openclip else "quick_gelu",
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
        pad_token_id=vocabulary - 1,
    )


def tiny_scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )


def write_tiny_sd(
    folder: Path,
    family: str = "sd1",
    *,
    prediction_type: str | None = None,
    text_width: int = 32,
    in_channels: int = 4,
    variant: str | None = None,
    seed: int = 0,
) -> Path:
    """Write a diffusers folder as from_pretrained reads it, sprite's tokenizer inside; returns `folder`.

    prediction_type None is v_prediction for "sd2" and epsilon otherwise. `variant="fp16"` writes the weights in
    half precision under that variant's file names, and only so.
    """
    parts = tiny_parts(family, text_width=text_width, in_channels=in_channels, seed=seed)
    for name, module in parts.items():
        stored = module.half() if variant == "fp16" else module
        stored.save_pretrained(folder / name, variant=variant)
    tokenizers = [name.replace("text_encoder", "tokenizer") for name in parts if name.startswith("text_encoder")]
    for tokenizer in tokenizers:
        shutil.copytree(sprite_folder("sprite-diffusion") / "tokenizer", folder / tokenizer)
    tiny_scheduler(prediction_type or _usual_prediction(family)).save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline",
        "_diffusers_version": "0.42.1",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        **{tokenizer: ["transformers", "CLIPTokenizer"] for tokenizer in tokenizers},
    }
    if family == "sdxl":
        index["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        index["force_zeros_for_empty_prompt"] = True
    else:
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _usual_prediction(family: str) -> str:
    return "v_prediction" if family == "sd2" else "epsilon"


def write_tiny_single_file(
    path: Path,
    family: str = "sd1",
    *,
    parts: dict[str, torch.nn.Module] | None = None,
    in_channels: int = 4,
    metadata: dict[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Write one .safetensors checkpoint in the original layout; returns `path`.

    `parts` are diffusers' modules to write (default: `tiny_parts` with CLIP's vocabulary).
    """
    parts = parts or tiny_parts(family, vocabulary=CLIP_VOCABULARY, in_channels=in_channels, seed=seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(original_state_dict(parts, family), path, metadata=metadata)
    return path


def in_two_files(tokenizer: Path) -> None:
    """Turn a folder's tokenizer.json into vocab.json and merges.txt."""
    model = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(model["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]))
    (tokenizer / "tokenizer.json").unlink()
