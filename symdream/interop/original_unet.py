"""The UNet's modules by diffusers' names and by those of the original single-file layout. Needs no torch.

Stability AI's UNet (CompVis/stable-diffusion, ldm/modules/diffusionmodules/openaimodel.py) counts its blocks in a row
from the input to the middle, and from there to the output.
"""

from __future__ import annotations

import re
from types import SimpleNamespace

WHOLE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
WHOLE_BACK = {original: name for name, original in WHOLE.items()}
RESNET_BACK = {original: name for name, original in RESNET.items()}

# SD 1.x, SD 2.x and SDXL all have two resnets in each block of the UNet.
LAYERS_PER_BLOCK = 2

# All that `unet_name` asks a configuration for, as SDXL's has it: a file of an adapter brings none.
SDXL = SimpleNamespace(
    layers_per_block=LAYERS_PER_BLOCK, up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D")
)


def unet_name(name: str, config) -> str:
    """Original name of one of the UNet's modules."""
    if name in WHOLE:
        return WHOLE[name]
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.+)", name):
        place = 1 if match[1] == "attentions" else 2 * int(match[2])
        return f"middle_block.{place}.{_inside(match[1], match[3])}"
    side, level, kind, index, rest = re.fullmatch(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.+)", name).groups()
    level, index, length = int(level), int(index), config.layers_per_block + 1
    if kind == "downsamplers":
        return f"input_blocks.{length * (level + 1)}.0.op"
    if kind == "upsamplers":
        place = 2 if config.up_block_types[level].startswith("CrossAttn") else 1
        return f"output_blocks.{length * (level + 1) - 1}.{place}.conv"
    number = length * level + index
    block = f"input_blocks.{1 + number}" if side == "down" else f"output_blocks.{number}"
    return f"{block}.{0 if kind == 'resnets' else 1}.{_inside(kind, rest)}"


def _inside(kind: str, rest: str) -> str:
    return RESNET[rest] if kind == "resnets" else rest


def module_of(original: str) -> str | None:
    """The module that has this original name, None for a name that no block begins so: `unet_name` backwards."""
    if original in WHOLE_BACK:
        return WHOLE_BACK[original]
    if match := re.fullmatch(r"middle_block\.([012])\.(.+)", original):
        place, rest = int(match[1]), match[2]
        return _inside_back("mid_block", "attentions" if place == 1 else "resnets", place // 2, rest)
    match = re.fullmatch(r"(input|output)_blocks\.(\d+)\.([012])\.(.+)", original)
    if match is None:
        return None
    side, place, rest = match[1], int(match[3]), match[4]
    level, index = divmod(int(match[2]) - (side == "input"), LAYERS_PER_BLOCK + 1)
    block = f"{'down' if side == 'input' else 'up'}_blocks.{level}"
    if (side, place, rest) == ("input", 0, "op"):
        return f"{block}.downsamplers.0.conv"
    if (side, rest) == ("output", "conv"):
        return f"{block}.upsamplers.0.conv"
    return _inside_back(block, "resnets" if place == 0 else "attentions", index, rest)


def _inside_back(block: str, kind: str, index: int, rest: str) -> str | None:
    inside = RESNET_BACK.get(rest) if kind == "resnets" else rest
    return inside and f"{block}.{kind}.{index}.{inside}"
