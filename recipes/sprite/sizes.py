"""The models by size: `full` is today's architectures, read from their own configs; `tiny` is narrow, for CPU tests.

What a stage trains with (batch, rate) goes with the size. None of the rates was tuned on a GPU.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from recipes.sprite.parts import FOLDERS
from symdream.diffusion.embedded import sprite_folder

_TINY_TEXT = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
_TINY_VIT = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 3, "num_attention_heads": 3}
_TINY = {
    "vae": {"block_out_channels": [16, 16, 32], "norm_num_groups": 8, "mid_block_add_attention": False},
    "text_encoder": _TINY_TEXT | {"projection_dim": 64},
    "unet": {
        "block_out_channels": [16, 32, 64],
        "layers_per_block": 1,
        "norm_num_groups": 16,
        "attention_head_dim": 2,
        "cross_attention_dim": 64,
    },
    "clip": {"projection_dim": 64, "text_config": _TINY_TEXT | {"projection_dim": 64}, "vision_config": _TINY_VIT},
    "dino": _TINY_VIT | {"pooler_output_size": 96},
}


@dataclass(frozen=True)
class Size:
    """batch and lr by stage; pool: latents that the UNet learns from at a time; refill: how many are new at a time."""

    batch: dict[str, int]
    lr: dict[str, float]
    warmup: int  # steps until the rate is whole
    ema: dict[str, float]
    distilled: float  # of DINO's first training is self-distillation; what goes on from weights is contrastive alone
    pool: int
    refill: int
    refill_every: int  # steps


SIZES = {
    "full": Size(
        batch={"vae": 128, "clip": 1024, "dino": 512, "unet": 512},
        lr={"vae": 6e-4, "clip": 1e-3, "dino": 5e-4, "unet": 5e-4},
        warmup=200,
        ema={"vae": 0.999, "clip": 0.999, "dino": 0.998, "unet": 0.9995},
        distilled=0.3,
        pool=65_536,
        refill=256,
        refill_every=4,
    ),
    "tiny": Size(
        batch={"vae": 4, "clip": 32, "dino": 16, "unet": 8},
        lr={"vae": 3e-3, "clip": 2e-3, "dino": 3e-3, "unet": 2e-3},
        warmup=10,
        ema={"vae": 0.9, "clip": 0.9, "dino": 0.9, "unet": 0.95},
        distilled=0.05,  # in so few steps it only makes all pictures alike
        pool=128,
        refill=16,
        refill_every=20,
    ),
}


def config_of(part: str, size: str) -> dict:
    """The content of the part's config.json."""
    config = json.loads((sprite_folder(FOLDERS[part]) / "config.json").read_text(encoding="utf-8"))
    for key, value in (_TINY[part] if size == "tiny" else {}).items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    return config


def new_model(part: str, config: dict):
    """The part with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, ViTConfig, ViTModel

    if part in ("vae", "unet"):
        return {"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part].from_config(config)
    # The stored number format is a matter of the file: training is in fp32.
    config = _without_dtype(config)
    if part == "dino":
        return ViTModel(ViTConfig(**config), add_pooling_layer=False)
    kinds = {"clip": (CLIPModel, CLIPConfig), "text_encoder": (CLIPTextModel, CLIPTextConfig)}
    model, settings = kinds[part]
    return model(settings(**config))


def _without_dtype(config: dict) -> dict:
    kept = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
    return {key: _without_dtype(value) if isinstance(value, dict) else value for key, value in kept.items()}
