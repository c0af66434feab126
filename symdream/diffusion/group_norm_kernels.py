"""Triton kernels of group normalisation over channels-last pictures. For group_norm.py, which says what they compute.

A picture lies as (B, H·W, C): a group's numbers are runs of C/G, one run a pixel. A program has a `chunk` of one
group's numbers, counted pixel by pixel, of which `splits` make the group. So small batches fill a large GPU as well,
and two kernels make a pass: the first leaves the sums of each chunk, the second adds them up and writes the pictures.
All sums are fp32. No integer is specialised on, so that each kernel is compiled once for a number format.
"""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 1024  # numbers that a program reads at once
SPLITS = 32  # at most so many chunks a group


@triton.jit
def _offsets(numbers, group, inverse, channels):
    """Where a group's numbers lie, from its first one, and which of its channels each is.

    The pixel is numbers // group, by a product with 1 / group: an integer division costs more than all the rest. In
    fp32 it is exact up to 2²² numbers.
    """
    pixel = ((numbers + 0.5) * inverse).to(tl.int32)
    own = numbers - pixel * group
    return pixel * channels + own, own


@triton.jit
def _read(x, weight, bias, begin, high, group, inverse, channels, BLOCK: tl.constexpr):
    """The numbers from `begin` on: where they lie, which there are, what they are, and their weight and bias."""
    numbers = begin + tl.arange(0, BLOCK)
    held = numbers < high
    where, own = _offsets(numbers, group, inverse, channels)
    values = tl.load(x + where, mask=held, other=0.0).to(tl.float32)
    scale = tl.load(weight + own, mask=held, other=0.0).to(tl.float32)
    shift = tl.load(bias + own, mask=held, other=0.0).to(tl.float32)
    return where, held, values, scale, shift


@triton.jit
def _start(row, pixels, channels, group):
    """The first number of a row (one group of one picture), and its first channel."""
    groups = channels // group
    first = (row % groups) * group
    return (row // groups).to(tl.int64) * pixels * channels + first, first


@triton.jit
def _moved(x, mean, rstd, weight, bias):
    """x̂, and what it becomes before SiLU."""
    normal = (x - mean) * rstd
    return normal, normal * weight + bias


@triton.jit
def _read_gradient(x, dy, weight, bias, mean, rstd, silu, begin, high, group, inverse, channels, BLOCK: tl.constexpr):
    """Of the numbers from `begin` on: where they lie, which there are, x̂, and the loss's gradient to it."""
    where, held, values, scale, shift = _read(x, weight, bias, begin, high, group, inverse, channels, BLOCK)
    upper = tl.load(dy + where, mask=held, other=0.0).to(tl.float32)
    normal, z = _moved(values, mean, rstd, scale, shift)
    sigmoid = 1 / (1 + tl.exp(-z))
    slope = tl.where(silu != 0, sigmoid * (1 + z * (1 - sigmoid)), 1.0)
    return where, held, normal, upper * slope * scale


@triton.jit(do_not_specialize=["pixels", "channels", "group", "chunk", "splits"])
def moments(x, sums, pixels, channels, group, inverse, chunk, splits, BLOCK: tl.constexpr):
    """Mean and summed squared deviation of each chunk, joined block by block (Chan, Golub and LeVeque 1983)."""
    row, split = tl.program_id(0), tl.program_id(1)
    start, channel = _start(row, pixels, channels, group)
    low = split * chunk
    high = tl.minimum(low + chunk, pixels * group)
    count = tl.full([], 0.0, tl.float32)
    mean = tl.full([], 0.0, tl.float32)
    squares = tl.full([], 0.0, tl.float32)
    for begin in range(low, high, BLOCK):
        numbers = begin + tl.arange(0, BLOCK)
        held = numbers < high
        where, own = _offsets(numbers, group, inverse, channels)
        values = tl.load(x + start + where, mask=held, other=0.0).to(tl.float32)
        more = tl.minimum(high - begin, BLOCK).to(tl.float32)
        middle = tl.sum(values) / more
        away = tl.where(held, values - middle, 0.0)
        shift = middle - mean
        both = count + more
        squares += tl.sum(away * away) + shift * shift * count * more / both
        mean += shift * more / both
        count = both
    place = sums + (row * splits + split) * 2
    tl.store(place, mean)
    tl.store(place + 1, squares)


@triton.jit(do_not_specialize=["pixels", "channels", "group", "chunk", "splits", "silu"])
def normalise(
    x, y, weight, bias, sums, stats, pixels, channels, group, inverse, chunk, splits, eps, silu,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """y, and each row's mean and 1/σ in `stats`."""
    row, split = tl.program_id(0), tl.program_id(1)
    start, channel = _start(row, pixels, channels, group)
    total = pixels * group
    parts = tl.arange(0, SPLITS)
    there = parts < splits
    counts = tl.where(there, tl.minimum(chunk, total - parts * chunk), 0).to(tl.float32)
    place = sums + (row * splits + parts) * 2
    means = tl.load(place, mask=there, other=0.0)
    squares = tl.load(place + 1, mask=there, other=0.0)
    mean = tl.sum(counts * means) / total
    away = means - mean
    rstd = tl.rsqrt((tl.sum(squares) + tl.sum(counts * away * away)) / total + eps)
    if split == 0:
        tl.store(stats + row * 2, mean)
        tl.store(stats + row * 2 + 1, rstd)
    low = split * chunk
    high = tl.minimum(low + chunk, total)
    for begin in range(low, high, BLOCK):
        where, held, values, scale, shift = _read(
            x + start, weight + channel, bias + channel, begin, high, group, inverse, channels, BLOCK
        )
        normal, z = _moved(values, mean, rstd, scale, shift)
        z = tl.where(silu != 0, z / (1 + tl.exp(-z)), z)
        tl.store(y + start + where, z.to(y.dtype.element_ty), mask=held)


@triton.jit(do_not_specialize=["pixels", "channels", "group", "chunk", "splits", "silu"])
def gradient_sums(
    x, dy, weight, bias, stats, sums, pixels, channels, group, inverse, chunk, splits, silu,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """The sums of the gradient to x̂ and of its product with x̂, of each chunk."""
    row, split = tl.program_id(0), tl.program_id(1)
    start, channel = _start(row, pixels, channels, group)
    mean = tl.load(stats + row * 2)
    rstd = tl.load(stats + row * 2 + 1)
    low = split * chunk
    high = tl.minimum(low + chunk, pixels * group)
    first = tl.full([], 0.0, tl.float32)
    second = tl.full([], 0.0, tl.float32)
    for begin in range(low, high, BLOCK):
        where, held, normal, slope = _read_gradient(
            x + start, dy + start, weight + channel, bias + channel, mean, rstd, silu, begin, high, group, inverse,
            channels, BLOCK,
        )  # fmt: skip
        first += tl.sum(slope)  # 0 where nothing is held: dy is
        second += tl.sum(slope * normal)
    place = sums + (row * splits + split) * 2
    tl.store(place, first)
    tl.store(place + 1, second)


@triton.jit(do_not_specialize=["pixels", "channels", "group", "chunk", "splits", "silu"])
def gradient(
    x, dy, dx, weight, bias, stats, sums, pixels, channels, group, inverse, chunk, splits, silu,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """dx."""
    row, split = tl.program_id(0), tl.program_id(1)
    start, channel = _start(row, pixels, channels, group)
    total = pixels * group
    mean = tl.load(stats + row * 2)
    rstd = tl.load(stats + row * 2 + 1)
    parts = tl.arange(0, SPLITS)
    place = sums + (row * splits + parts) * 2
    first = tl.sum(tl.load(place, mask=parts < splits, other=0.0)) / total
    second = tl.sum(tl.load(place + 1, mask=parts < splits, other=0.0)) / total
    low = split * chunk
    high = tl.minimum(low + chunk, total)
    for begin in range(low, high, BLOCK):
        where, held, normal, slope = _read_gradient(
            x + start, dy + start, weight + channel, bias + channel, mean, rstd, silu, begin, high, group, inverse,
            channels, BLOCK,
        )  # fmt: skip
        slope = rstd * (slope - first - normal * second)
        tl.store(dx + start + where, slope.to(dx.dtype.element_ty), mask=held)
