"""diffusers' weights under the names of the original single-file layout.

Written from the module trees of CompVis/stable-diffusion and OpenCLIP, in the opposite direction to the code
under test, so that a round trip checks that code.
"""

from __future__ import annotations

import re

import torch

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UNET_TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def original_state_dict(parts: dict[str, torch.nn.Module], family: str) -> dict[str, torch.Tensor]:
    """One state dict for the whole checkpoint."""
    state = {f"model.diffusion_model.{k}": v for k, v in _unet(parts["unet"]).items()}
    state |= {f"first_stage_model.{k}": v for k, v in _vae(parts["vae"]).items()}
    if family == "sd1":
        state |= _prefixed("cond_stage_model.transformer.text_model.", parts["text_encoder"].state_dict())
    elif family == "sd2":
        state |= _prefixed("cond_stage_model.model.", _openclip(parts["text_encoder"], extra_layer=True))
    else:
        state |= _prefixed("conditioner.embedders.0.transformer.text_model.", parts["text_encoder"].state_dict())
        state |= _prefixed("conditioner.embedders.1.model.", _openclip(parts["text_encoder_2"]))
    return {name: tensor.contiguous().clone() for name, tensor in state.items()}


def _prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def _unet(unet) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in unet.state_dict().items():
        module, kind = name.rsplit(".", 1)
        state[f"{original_unet_module(module, unet)}.{kind}"] = tensor
    return state


def original_unet_module(module: str, unet) -> str:
    """The original name of one of the UNet's modules."""
    return UNET_TOP.get(module) or _unet_block(module, unet.config.layers_per_block + 1, unet)


def _unet_block(module: str, per_level: int, unet) -> str:
    if match := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", module):
        kind, index, inner = match.groups()
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{inner if kind == 'attentions' else RESNET[inner]}"
    side, level, kind, index, inner = re.fullmatch(
        r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.*)", module
    ).groups()
    level, index = int(level), int(index)
    if side == "down":
        if kind == "downsamplers":
            return f"input_blocks.{per_level * (level + 1)}.0.op"
        return f"input_blocks.{1 + per_level * level + index}." + _inside(kind, inner)
    if kind == "upsamplers":
        attends = "CrossAttn" in unet.config.up_block_types[level]
        return f"output_blocks.{per_level * level + per_level - 1}.{2 if attends else 1}.conv"
    return f"output_blocks.{per_level * level + index}." + _inside(kind, inner)


def _inside(kind: str, inner: str) -> str:
    return f"0.{RESNET[inner]}" if kind == "resnets" else f"1.{inner}"


def _vae(vae) -> dict[str, torch.Tensor]:
    last = len(vae.config.block_out_channels) - 1
    state = {}
    for name, tensor in vae.state_dict().items():
        name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
        name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
        name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{last - int(m[1])}.block.{m[2]}", name)
        name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{last - int(m[1])}.upsample", name)
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
        if "mid_block.attentions.0" in name:
            name = name.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm")
            name = re.sub(r"to_([qkv])\.", r"\1.", name).replace("to_out.0.", "proj_out.")
            # The original attention is made of 1x1 convolutions.
            if tensor.ndim == 2:
                tensor = tensor[:, :, None, None]
        state[name] = tensor
    return state


def _openclip(encoder, *, extra_layer: bool = False) -> dict[str, torch.Tensor]:
    """OpenCLIP's names; `extra_layer` adds the last layer that SD 2.x files carry and diffusers leaves out."""
    text = encoder.text_model if hasattr(encoder, "text_model") else encoder
    weights = text.state_dict()
    state = {
        "token_embedding.weight": weights["embeddings.token_embedding.weight"],
        "positional_embedding": weights["embeddings.position_embedding.weight"],
        "ln_final.weight": weights["final_layer_norm.weight"],
        "ln_final.bias": weights["final_layer_norm.bias"],
    }
    layers = encoder.config.num_hidden_layers
    for target in range(layers + extra_layer):
        source = f"encoder.layers.{min(target, layers - 1)}."
        block = f"transformer.resblocks.{target}."
        for kind in ("weight", "bias"):
            third = [weights[f"{source}self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}attn.in_proj_{kind}"] = torch.cat(third)
            state[f"{block}attn.out_proj.{kind}"] = weights[f"{source}self_attn.out_proj.{kind}"]
            state[f"{block}ln_1.{kind}"] = weights[f"{source}layer_norm1.{kind}"]
            state[f"{block}ln_2.{kind}"] = weights[f"{source}layer_norm2.{kind}"]
            state[f"{block}mlp.c_fc.{kind}"] = weights[f"{source}mlp.fc1.{kind}"]
            state[f"{block}mlp.c_proj.{kind}"] = weights[f"{source}mlp.fc2.{kind}"]
    width = encoder.config.hidden_size
    projection = encoder.text_projection.weight if hasattr(encoder, "text_projection") else torch.eye(width)
    state["text_projection"] = projection.detach().T
    return state
