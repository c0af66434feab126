"""Configs for a checkpoint in the original (single-file) layout, read off its tensors' shapes.

diffusers fetches such configs from the hub; here they are built, so that a file alone is enough. What shapes do
not tell is fixed per family by the original training configs (CompVis/stable-diffusion v1-inference.yaml,
Stability-AI/stablediffusion v2-inference-v.yaml, Stability-AI/generative-models sd_xl_base.yaml):
SD 1.x has 8 heads per attention, the others heads of 64 channels; CLIP heads are 64 wide.
"""

from __future__ import annotations

from collections.abc import Mapping

from symdream.diffusion.architecture import UNET

Shapes = Mapping[str, tuple[int, ...]]
VAE = "first_stage_model."
SCALING = {"sd1": 0.18215, "sd2": 0.18215, "sdxl": 0.13025}
RESOLUTION = {"sd1": 512, "sd2": 768, "sdxl": 1024}


def unet_config(shapes: Shapes, family: str) -> dict:
    """UNet2DConditionModel's config."""
    inputs = UNET + "input_blocks."
    downsamplers = [key for key in shapes if key.startswith(inputs) and key.endswith(".op.weight")]
    layers = min(int(key.removeprefix(inputs).split(".")[0]) for key in downsamplers) - 1
    first_blocks = [1 + level * (layers + 1) for level in range(len(downsamplers) + 1)]
    widths = [shapes[f"{UNET}input_blocks.{block}.0.out_layers.3.weight"][0] for block in first_blocks]
    depths = [_transformer_depth(shapes, f"{UNET}input_blocks.{block}.1.") for block in first_blocks]
    middle = f"{UNET}middle_block.1."
    down = ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in depths]
    up = ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(depths)]
    config = {
        "_class_name": "UNet2DConditionModel",
        "sample_size": RESOLUTION[family] // 8,
        "block_out_channels": widths,
        "layers_per_block": layers,
        "down_block_types": down,
        "up_block_types": up,
        "transformer_layers_per_block": [max(1, depth) for depth in depths],
        "cross_attention_dim": shapes[f"{middle}transformer_blocks.0.attn2.to_k.weight"][1],
        # diffusers calls the number of heads attention_head_dim.
        "attention_head_dim": 8 if family == "sd1" else [max(1, width // 64) for width in widths],
        "use_linear_projection": len(shapes[f"{middle}proj_in.weight"]) == 2,
    }
    if family == "sdxl":
        config |= {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": shapes[f"{UNET}label_emb.0.0.weight"][1],
        }
    return config


def _transformer_depth(shapes: Shapes, prefix: str) -> int:
    prefix += "transformer_blocks."
    return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})


def vae_config(shapes: Shapes, family: str) -> dict:
    """AutoencoderKL's config."""

    def count(prefix: str) -> int:
        return len({key.removeprefix(prefix).split(".")[0] for key in shapes if key.startswith(prefix)})

    levels = count(f"{VAE}encoder.down.")
    return {
        "_class_name": "AutoencoderKL",
        "sample_size": RESOLUTION[family],
        "block_out_channels": [shapes[f"{VAE}encoder.down.{i}.block.0.conv2.weight"][0] for i in range(levels)],
        "layers_per_block": count(f"{VAE}encoder.down.0.block."),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "latent_channels": 4,
        "scaling_factor": SCALING[family],
    }


def clip_config(vocabulary: int, width: int, layers: int, inner: int, *, openclip: bool) -> dict:
    """CLIPTextConfig's arguments. OpenAI's CLIP uses quick_gelu, OpenCLIP's H and bigG gelu."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(1, width // 64),
        "intermediate_size": inner,
        "projection_dim": width,
        "hidden_act": "gelu" if openclip else "quick_gelu",
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
    }
