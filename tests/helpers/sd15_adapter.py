"""An untrained SingLoRA of Stable Diffusion 1.5's size, as the trainer leaves it, without making the model."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from helpers.sd_configs import CLIP_L_TEXT, SD15_UNET, make_text_encoder, make_unet
from safetensors.torch import save_file

from symdream.tuners import SingLoraConfig, target_modules


def write_sd15_singlora(folder: Path, rank: int = 16) -> Path:
    """folder/unet and folder/text_encoder with A of every attention projection; returns `folder`."""
    with torch.device("meta"):
        models = {"unet": make_unet(SD15_UNET), "text_encoder": make_text_encoder(CLIP_L_TEXT)}
    generator = torch.Generator().manual_seed(0)
    for component, model in models.items():
        names = tuple(f".{target}" for target in target_modules("qkvo", component))
        layers = {n: m for n, m in model.named_modules() if n.endswith(names) and isinstance(m, torch.nn.Linear)}
        widths = {n: max(m.in_features, m.out_features) for n, m in layers.items()}
        shapes = {n: [m.out_features, m.in_features] for n, m in layers.items() if m.in_features != m.out_features}
        metadata = {"method": "singlora", "rank": rank, "alpha": rank, "u": 1.0, "family": "sd1", "shapes": shapes}
        tensors = {
            f"base_model.model.{name}.singlora_A": torch.randn(rank, n, generator=generator) / n**0.5
            for name, n in widths.items()
        }
        (folder / component).mkdir(parents=True)
        file = folder / component / "adapter_model.safetensors"
        save_file(tensors, file, metadata={"symdream": json.dumps(metadata)})
        config = SingLoraConfig(r=rank, alpha=rank, target_modules=target_modules("qkvo", component))
        config.save_pretrained(str(file.parent))
    return folder
