"""All that training draws at random, as a pure function of (seed, sample index).

The k-th sample of a run sees the same image, timestep and noise whatever came before it: so a resumed run
equals an unbroken one, two processes see what one process with twice the batch would see, and CPU and GPU
train on the same numbers. Draws are made by CPU generators, whatever torch's default device; each kind has its
own stream, so that an option that needs one more draw does not shift the others.
"""

from __future__ import annotations

import hashlib

import torch


def generator(seed: int, *key: int | str) -> torch.Generator:
    """A CPU generator whose state depends on nothing but `seed` and `key`."""
    return torch.Generator().manual_seed(seed_of(seed, *key))


def seed_of(seed: int, *key: int | str) -> int:
    """63 bits that depend on nothing but `seed` and `key`."""
    digest = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def image_index(seed: int, sample: int, count: int, stream: str = "image") -> int:
    """Which of `count` images the sample shows: a fresh shuffle every `count` samples, each image once in it."""
    epoch, place = divmod(sample, count)
    return int(torch.randperm(count, generator=generator(seed, stream, epoch), device="cpu")[place])


def timestep(seed: int, sample: int, count: int, stream: str = "timestep") -> int:
    """Uniform in 0 … count-1."""
    return int(torch.randint(count, (), generator=generator(seed, stream, sample), device="cpu"))


def normal(seed: int, sample: int, shape: tuple[int, ...], stream: str) -> torch.Tensor:
    """Standard normal numbers of `shape`, fp32 on the CPU; `stream` names what they are for."""
    return torch.randn(shape, generator=generator(seed, stream, sample), dtype=torch.float32, device="cpu")


def uniform(seed: int, sample: int, stream: str) -> float:
    """One number in [0, 1)."""
    return float(torch.rand((), generator=generator(seed, stream, sample), dtype=torch.float32, device="cpu"))
