"""How much memory training on a base takes, counted on the meta device: shapes without numbers, in a second or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from symdream.diffusion.base import Base

BLOCKS = ("ResnetBlock2D", "BasicTransformerBlock")  # what diffusers' gradient checkpointing computes again


@dataclass(frozen=True)
class Footprint:
    """Counts and bytes of one base with its adapters, as configured.

    unet, vae, text: parameters of the frozen models; adapter, text_adapter: trained ones (UNet's, text encoders').
    activations: bytes that one picture's forward through the UNet keeps for its backward; checkpointed: the same
    with gradient checkpointing, the block that is being computed again included. bytes_per_number: of the base.
    """

    unet: int
    vae: int
    text: int
    adapter: int
    text_adapter: int
    activations: float
    checkpointed: float
    bytes_per_number: int


def measure(base: Base, resolution: int) -> Footprint:
    """The footprint of a base to which its adapters are attached."""

    def count(modules: list[nn.Module], trained: bool) -> int:
        return sum(p.numel() for module in modules for p in module.parameters() if p.requires_grad == trained)

    kept, largest = unet_activations(base, resolution, checkpointing=False)
    inputs, _ = unet_activations(base, resolution, checkpointing=True)
    return Footprint(
        unet=count([base.unet], False),
        vae=sum(p.numel() for p in base.vae.parameters()),
        text=count(base.text_encoders, False),
        adapter=count([base.unet], True),
        text_adapter=count(base.text_encoders, True),
        activations=kept,
        checkpointed=inputs + largest,
        bytes_per_number=base.dtype.itemsize,
    )


def unet_activations(base: Base, resolution: int, *, checkpointing: bool) -> tuple[float, float]:
    """Bytes kept for the backward of one picture: by the whole UNet, and by its largest block.

    Attention matrices are left out, as fused kernels keep none.
    """
    from copy import deepcopy

    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(base.unet.config).train().requires_grad_(False)
        nn.Module.to(unet, dtype=base.dtype)
        for name, config in (getattr(base.unet, "peft_config", None) or {}).items():
            unet.add_adapter(deepcopy(config), name)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        factor = 2 ** (len(base.vae.config.block_out_channels) - 1)
        side, pooled = resolution // factor, None
        # What comes from outside has a gradient when the text encoder is trained: the larger case.
        text = torch.zeros(1, 77, unet.config.cross_attention_dim, dtype=base.dtype, requires_grad=True)
        if base.family == "sdxl":
            width = base.text_encoders[1].config.projection_dim
            pooled = {"text_embeds": torch.zeros(1, width, dtype=base.dtype), "time_ids": torch.zeros(1, 6)}
        x = torch.zeros(1, unet.config.in_channels, side, side, dtype=base.dtype)
        t = torch.zeros(1, dtype=torch.long)
    return kept_bytes(unet, lambda: unet(x, t, encoder_hidden_states=text, added_cond_kwargs=pooled))


def kept_bytes(model: nn.Module, forward: Callable[[], object]) -> tuple[float, float]:
    """Bytes of distinct tensors that `forward` saves for backward, the model's own not counted; and of the
    hungriest block."""
    own = {p.untyped_storage()._cdata for p in (*model.parameters(), *model.buffers())}
    seen: dict[int, Tensor] = {}  # holding the tensors keeps their addresses from being used again
    total, largest, starts = 0.0, 0.0, []

    def pack(tensor: Tensor) -> Tensor:
        nonlocal total
        key = tensor.untyped_storage()._cdata
        if key not in own and key not in seen:
            seen[key] = tensor
            total += tensor.untyped_storage().nbytes()
        return tensor

    def finish(*_: object) -> None:
        nonlocal largest
        largest = max(largest, total - starts.pop())

    for module in model.modules():
        if type(module).__name__ in BLOCKS:
            module.register_forward_pre_hook(lambda *_: starts.append(total))
            module.register_forward_hook(finish)
    with fused_attention(), torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return total, largest


@contextmanager
def fused_attention() -> Iterator[None]:
    """The meta device knows attention only with its matrix; here it keeps what the fused kernels keep."""
    original = nn.functional.scaled_dot_product_attention
    nn.functional.scaled_dot_product_attention = lambda q, k, v, *_, **__: _Attention.apply(q, k, v)
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = original


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, _ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
