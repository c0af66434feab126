"""diffusers' modules under the names of the original single-file layout, which A1111 and ComfyUI load as a checkpoint.

By their first parts:
    model.diffusion_model.     the UNet (symdream.interop.original_unet)
    first_stage_model.         the VAE (CompVis/stable-diffusion, ldm/modules/diffusionmodules/model.py)
    cond_stage_model.          the text encoder: SD 1.x transformers' CLIP, SD 2.x OpenCLIP
    conditioner.embedders.0/1. SDXL's two (Stability-AI/generative-models)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from symdream.diffusion.base import Base
from symdream.interop.original_unet import unet_name

VAE_PARTS = (
    (r"^(encoder|decoder)\.mid_block\.resnets\.(\d)", lambda m: f"{m[1]}.mid.block_{int(m[2]) + 1}"),
    (r"^(encoder|decoder)\.mid_block\.attentions\.0", lambda m: f"{m[1]}.mid.attn_1"),
    (r"^encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2"),
    (r"^encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample"),
    (r"conv_shortcut$", "nin_shortcut"),
    (r"conv_norm_out$", "norm_out"),
)
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPENCLIP_LAYER = {
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def original_tensors(base: Base) -> dict[str, Tensor]:
    """Every weight of `base` by its original name."""
    tensors = _named("model.diffusion_model.", base.unet, lambda name: unet_name(name, base.unet.config))
    levels = len(base.vae.config.block_out_channels)
    tensors |= _named("first_stage_model.", base.vae, lambda name: vae_name(name, levels))
    for name in tensors:
        if ".mid.attn_1." in name and tensors[name].ndim == 2:
            # The original's attention is made of 1x1 convolutions.
            tensors[name] = tensors[name][:, :, None, None]
    if base.family == "sdxl":
        tensors |= _clip("conditioner.embedders.0.transformer.", base.text_encoders[0])
        tensors |= _openclip("conditioner.embedders.1.model.", base.text_encoders[1])
    elif base.family == "sd2":
        tensors |= _openclip("cond_stage_model.model.", base.text_encoder, copy_last=True)
    else:
        tensors |= _clip("cond_stage_model.transformer.", base.text_encoder)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _named(prefix: str, module: nn.Module, rename) -> dict[str, Tensor]:
    named = {}
    for key, tensor in module.state_dict().items():
        name, kind = key.rsplit(".", 1)
        named[f"{prefix}{rename(name)}.{kind}"] = tensor
    return named


def vae_name(name: str, levels: int) -> str:
    """Original name of one of the VAE's modules; the decoder's levels are counted from the other end."""
    if match := re.fullmatch(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.(.+)", name):
        inside = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        name = f"decoder.up.{levels - 1 - int(match[1])}.{inside}.{match[4]}"
    for pattern, new in VAE_PARTS:
        name = re.sub(pattern, new, name)
    if ".mid.attn_1." in name:
        head, tail = name.split(".mid.attn_1.")
        name = f"{head}.mid.attn_1.{VAE_ATTENTION[tail]}"
    return name


def _clip(prefix: str, encoder: nn.Module) -> dict[str, Tensor]:
    return {prefix + _with_text_model(name): tensor for name, tensor in encoder.state_dict().items()}


def _with_text_model(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def _openclip(prefix: str, encoder: nn.Module, *, copy_last: bool = False) -> dict[str, Tensor]:
    """OpenCLIP's names: q, k and v in one matrix.

    `copy_last`: SD 2.x reads the last layer but one; diffusers leaves the last out, so a copy stands in for it,
    which no reader computes with.
    """
    weights = {_with_text_model(k).removeprefix("text_model."): v for k, v in encoder.state_dict().items()}
    tensors = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
    }
    layers = encoder.config.num_hidden_layers
    for target, source in enumerate([*range(layers), *([layers - 1] if copy_last else [])]):
        for name, tensor in _openclip_layer(weights, f"encoder.layers.{source}."):
            tensors[f"transformer.resblocks.{target}.{name}"] = tensor.clone() if target >= layers else tensor
    if hasattr(encoder, "text_projection"):
        tensors["text_projection"] = encoder.text_projection.weight.detach().T
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _openclip_layer(weights: dict[str, Tensor], prefix: str) -> Iterable[tuple[str, Tensor]]:
    for kind in ("weight", "bias"):
        yield f"attn.in_proj_{kind}", torch.cat([weights[f"{prefix}self_attn.{p}_proj.{kind}"] for p in "qkv"])
        for module, name in OPENCLIP_LAYER.items():
            yield f"{name}.{kind}", weights[f"{prefix}{module}.{kind}"]
