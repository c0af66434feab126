"""A UNet whose pictures stay channels-last from end to end, for as long as its step is recorded.

    with lean(unet): ...

exchanges what would copy them into the other layout and back: PyTorch's group normalisation (with the SiLU behind it,
where there is one) for our kernels (group_norm.py), and the way that diffusers' transformer blocks leave. The numbers
are the same but for rounding; parameters and adapters are not touched.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel, UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from symdream.diffusion.group_norm import MOST, group_norm

Normalise = Callable[..., Tensor]


@contextmanager
def lean(unet: nn.Module, normalise: Normalise = group_norm) -> Iterator[None]:
    """Within it the UNet's forward copies no layouts. normalise: as group_norm.

    What is not as in Stable Diffusion (other classes, a trained or hooked normalisation) stays as it is.
    """
    with ExitStack() as stack:
        done: set[nn.Module] = set()
        for module in unet.modules():
            if _is_plain_resnet(module):
                for norm in (module.norm1, module.norm2):
                    stack.enter_context(_forward(norm, _normalised(norm, normalise, silu=True)))
                    done.add(norm)
                stack.enter_context(_forward(module.nonlinearity, _silu_of_vectors))
            elif type(module) is Transformer2DModel and module.is_input_continuous:
                stack.enter_context(_method(module, "_get_output_for_continuous_inputs", _leave))
            elif type(module) is UNet2DConditionModel and _is_silu_after(module.conv_norm_out, module.conv_act):
                norm = module.conv_norm_out
                stack.enter_context(_forward(norm, _normalised(norm, normalise, silu=True)))
                stack.enter_context(_forward(module.conv_act, lambda x: x))
                done.add(norm)
        for module in unet.modules():
            if module not in done and _is_frozen_norm(module):
                stack.enter_context(_forward(module, _normalised(module, normalise, silu=False)))
        yield


def _is_frozen_norm(module: nn.Module | None) -> bool:
    if type(module) is not nn.GroupNorm or not module.affine or "forward" in vars(module):
        return False
    return not (torch.is_grad_enabled() and (module.weight.requires_grad or module.bias.requires_grad))


def _is_silu_after(norm: nn.Module | None, activation: nn.Module | None) -> bool:
    return _is_frozen_norm(norm) and type(activation) is nn.SiLU and "forward" not in vars(activation)


def _is_plain_resnet(module: nn.Module) -> bool:
    return (
        type(module) is ResnetBlock2D
        and module.time_embedding_norm == "default"
        and _is_silu_after(module.norm1, module.nonlinearity)
        and _is_frozen_norm(module.norm2)
    )


def _normalised(norm: nn.GroupNorm, normalise: Normalise, *, silu: bool) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        if x.ndim == 4 and x[0].numel() // norm.num_groups <= MOST:
            return normalise(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=silu)
        y = F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return F.silu(y) if silu else y

    return forward


def _silu_of_vectors(x: Tensor) -> Tensor:
    """A residual block's nonlinearity: its pictures come from a normalisation that has done it, the time has not."""
    return x if x.ndim == 4 else F.silu(x)


def _leave(block: Transformer2DModel, hidden_states, residual, batch_size, height, width, inner_dim) -> Tensor:
    """Tokens (B, H·W, C) back to pictures, as diffusers does it but for its copy."""
    if block.use_linear_projection:
        hidden_states = block.proj_out(hidden_states)
    hidden_states = hidden_states.reshape(batch_size, height, width, inner_dim).permute(0, 3, 1, 2)
    if not block.use_linear_projection:
        hidden_states = block.proj_out(hidden_states)
    return hidden_states + residual


@contextmanager
def _forward(module: nn.Module, forward: Callable) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


@contextmanager
def _method(module: nn.Module, name: str, function: Callable) -> Iterator[None]:
    setattr(module, name, functools.partial(function, module))
    try:
        yield
    finally:
        delattr(module, name)
