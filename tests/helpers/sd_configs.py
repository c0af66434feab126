"""Configs of Stable Diffusion 1.5's parts, for parameter counts on the meta device, and tiny models to run."""

from __future__ import annotations

import torch

# The published architecture: stable-diffusion-v1-5, unet/config.json and text_encoder/config.json (CLIP ViT-L/14).
SD15_UNET = {
    "sample_size": 64,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
CLIP_L_TEXT = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "projection_dim": 768,
}

# 16 and 32 wide with 24-wide text: attn2.to_k and to_v are wider than tall in one block, taller than wide in the other.
TINY_UNET = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": 24,
    "attention_head_dim": 2,
    "norm_num_groups": 8,
}
TINY_TEXT = {
    "vocab_size": 100,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "projection_dim": 24,
    "bos_token_id": 98,
    "eos_token_id": 99,
    "pad_token_id": 99,
}


def make_unet(config: dict = TINY_UNET, seed: int = 0):
    """A UNet with random weights; on the meta device inside `with torch.device("meta")`."""
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    return UNet2DConditionModel(**config).eval()


def make_text_encoder(config: dict = TINY_TEXT, seed: int = 0):
    """A CLIP text encoder with random weights; on the meta device inside `with torch.device("meta")`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(seed)
    return CLIPTextModel(CLIPTextConfig(**config)).eval()


def unet_inputs(batch: int = 2, config: dict = TINY_UNET, seed: int = 0) -> dict[str, torch.Tensor]:
    """Noisy latents, timesteps and text states that fit a UNet of this config."""
    generator = torch.Generator().manual_seed(seed)
    size, width = config["sample_size"], config["cross_attention_dim"]
    return {
        "sample": torch.randn(batch, config["in_channels"], size, size, generator=generator),
        "timestep": torch.randint(0, 1000, (batch,), generator=generator),
        "encoder_hidden_states": torch.randn(batch, 7, width, generator=generator),
    }
