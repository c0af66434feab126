"""Group normalisation, with SiLU or without, of pictures that lie channels-last, in one pass over memory each way.

    x̂ = (x - mean) / √(var + eps) over each of G groups of channels (arXiv:1803.08494, eq. 1 to 7)
    z = x̂·weight + bias        y = z, or SiLU(z) = z·sigmoid(z)
    dx = (g - mean(g) - x̂·mean(g·x̂)) / √(var + eps),  g = dy·SiLU'(z)·weight

PyTorch's CUDA kernels know the other layout alone, that of (B, C, H, W): between convolutions, which want channels
last, each normalisation copies the pictures there and back, forwards and backwards, and SiLU keeps its own input. The
statistics and all of the arithmetic here are fp32, whatever the pictures are; what is rounded is y and dx.
"""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from math import ceil

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

SWITCH = "SYMDREAM_KERNELS"  # 0: PyTorch's kernels everywhere
PROGRAMS = 1024  # as many programs as fill a large GPU
LEAST = 1024  # numbers that are worth a program
MOST = 2**22  # numbers of a group: up to here the kernels' division is exact in fp32
TOLERANCE = 0.02  # of 1 + |value|, against PyTorch in fp32; bf16 has 8 bits, a wrong kernel is wrong by about 1


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool) -> Tensor:
    """y (B, C, H, W), channels-last, as x is or else is made. weight, bias (C,): frozen, they get no gradient.

    Raises: ValueError if a gradient to weight or bias is wanted, C is no multiple of `groups`, or a group has more than
    MOST numbers.
    """
    if torch.is_grad_enabled() and (weight.requires_grad or bias.requires_grad):
        raise ValueError("weight and bias get no gradient here")
    if x.ndim != 4 or x.shape[1] % groups:
        raise ValueError(f"{groups} groups do not fit pictures of the shape {tuple(x.shape)}")
    return _GroupNorm.apply(x, groups, weight, bias, eps, silu)


def why_not(device: torch.device) -> str | None:
    """Why these kernels cannot be used on a device, in a few words; None where they can."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    return _why_not(device) if device.type == "cuda" else "there is no CUDA device"


@functools.cache
def _why_not(device: torch.device) -> str | None:
    """They are compiled and compared with PyTorch's, once a process: a machine may lack Triton or a C compiler."""
    try:
        return None if largest_difference(device) < TOLERANCE else "Triton's kernels are not exact here"
    except Exception as error:  # whatever a compiler, a driver or a missing package may raise
        return f"Triton's kernels do not work here ({type(error).__name__}: {first_line(error)})"


def first_line(error: Exception) -> str:
    """What an error says first; "" if it says nothing, as a bare assertion does."""
    return (str(error).splitlines() or [""])[0][:100]


def largest_difference(device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """The largest |ours - PyTorch's in fp32| / (1 + |PyTorch's|) of y and dx, on two small batches of pictures."""
    # Pictures are drawn in inference mode, which knows no gradients.
    with torch.inference_mode(False), torch.enable_grad():
        return max(_difference(64, 7, False, device, dtype), _difference(320, 16, True, device, dtype))


def _difference(channels: int, side: int, silu: bool, device: torch.device, dtype: torch.dtype) -> float:
    generator = torch.Generator().manual_seed(0)
    x, dy = (torch.randn(2, channels, side, side, generator=generator).to(device, dtype) for _ in range(2))
    x = (3 * x + 1).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = (torch.randn(channels, generator=generator).to(device, dtype) for _ in range(2))
    y = group_norm(x, 32, weight, bias, 1e-5, silu=silu)
    (dx,) = torch.autograd.grad(y, x, dy)
    wide = x.detach().float().requires_grad_()
    wanted = F.group_norm(wide, 32, weight.float(), bias.float(), 1e-5)
    wanted = F.silu(wanted) if silu else wanted
    (wanted_dx,) = torch.autograd.grad(wanted, wide, dy.float())

    def apart(ours: Tensor, theirs: Tensor) -> float:
        return float(((ours - theirs).abs() / (1 + theirs.abs())).nan_to_num(torch.inf).max())

    return max(apart(y.detach(), wanted.detach()), apart(dx, wanted_dx))


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool) -> Tensor:
        from symdream.diffusion import group_norm_kernels as kernels

        x = x.contiguous(memory_format=torch.channels_last)
        shape = _Shape(x, groups, kernels)
        y = torch.empty_like(x)
        sums, stats = x.new_empty(shape.parts, dtype=torch.float32), x.new_empty(shape.rows, 2, dtype=torch.float32)
        with _on(x.device):
            kernels.moments[shape.grid](x, sums, *shape.numbers, BLOCK=kernels.BLOCK)
            kernels.normalise[shape.grid](
                x, y, weight, bias, sums, stats, *shape.numbers, eps, int(silu),
                BLOCK=kernels.BLOCK, SPLITS=kernels.SPLITS,
            )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, stats)
        ctx.groups, ctx.silu = groups, silu
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        from symdream.diffusion import group_norm_kernels as kernels

        x, weight, bias, stats = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        shape = _Shape(x, ctx.groups, kernels)
        dx, sums = torch.empty_like(x), x.new_empty(shape.parts, dtype=torch.float32)
        silu = int(ctx.silu)
        with _on(x.device):
            kernels.gradient_sums[shape.grid](
                x, dy, weight, bias, stats, sums, *shape.numbers, silu, BLOCK=kernels.BLOCK
            )
            kernels.gradient[shape.grid](
                x, dy, dx, weight, bias, stats, sums, *shape.numbers, silu,
                BLOCK=kernels.BLOCK, SPLITS=kernels.SPLITS,
            )  # fmt: skip
        return dx, None, None, None, None, None


class _Shape:
    """How the work is shared out: rows (one group of one picture each) times splits."""

    def __init__(self, x: Tensor, groups: int, kernels):
        count, channels, height, width = x.shape
        self.rows, group = count * groups, channels // groups
        total = height * width * group
        if total > MOST:
            raise ValueError(f"a group of {total} numbers is more than these kernels count")
        splits = min(kernels.SPLITS, ceil(PROGRAMS / self.rows), ceil(total / LEAST))
        chunk = ceil(total / splits / kernels.BLOCK) * kernels.BLOCK
        splits = ceil(total / chunk)
        self.grid, self.parts = (self.rows, splits), (self.rows, splits, 2)
        self.numbers = height * width, channels, group, 1 / group, chunk, splits


def _on(device: torch.device) -> AbstractContextManager:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
