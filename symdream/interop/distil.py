"""A compressed adapter learns the answers of the whole one.

    min over A_l, B_l of   sum over looks  || eps(x_t, t, prompt; A, B) - eps(x_t, t, prompt; whole adapter) ||^2

eps is the guided noise prediction. Truncation (symdream.interop.sensitivity) takes the layers one by one and knows of
inputs and gradients their second moments alone; what the layers' errors do together is left to this. It starts there,
and is kept only if it is nearer to the whole adapter's answers on seeds that it did not learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from symdream.diffusion.adapters import Disabled
from symdream.diffusion.base import Base
from symdream.diffusion.detach import detach
from symdream.interop.attach import attach_adapter
from symdream.interop.collect import collect
from symdream.interop.layers import Adapter
from symdream.interop.sensitivity import Look, guided, looks_at

PASSES = 2  # over the looks
RATE = 1e-3  # of a matrix's root mean square, a step
WARMUP = 10  # steps
CHECK_SEEDS = (8_800_003,)  # not learned from


@dataclass
class Answers:
    """What a base with the whole adapter predicts at each look, (1, C, h, w) each, and how far that is from the base
    alone: the root of the sum of squares."""

    looks: list[Look]
    whole: list[Tensor]
    effect: float


@torch.no_grad()
def answers(base: Base, looks: Sequence[Look]) -> Answers:
    """Of the adapter that is attached to `base`."""
    whole = [guided(base, *look) for look in looks]
    with Disabled(base):
        alone = [guided(base, *look) for look in looks]
    return Answers(list(looks), whole, _distance(whole, alone))


@torch.no_grad()
def error(base: Base, told: Answers) -> float:
    """||eps - eps_whole|| / ||eps_base - eps_whole||: 0 is the whole adapter, 1 the base alone."""
    return _distance([guided(base, *look) for look in told.looks], told.whole) / max(told.effect, 1e-12)


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    return sum((a - b).float().square().sum().item() for a, b in zip(some, others, strict=True)) ** 0.5


@dataclass
class Distilled:
    """The adapter, and its `error` on CHECK_SEEDS before and after; where learning made it larger, that before."""

    adapter: Adapter
    before: float
    after: float


def distil(base: Base, prompts: Sequence[str], looks: Sequence[Look], small: Adapter) -> Distilled:
    """`small` after PASSES over `looks`. `base` has the whole adapter attached, and none afterwards."""
    check = answers(base, looks_at(base, prompts, CHECK_SEEDS))
    told = answers(base, looks)
    detach(base)
    attach_adapter(base.components(), small)
    before = error(base, check)
    learn(base, told)
    after = error(base, check)
    learned = collect(base.components(), metadata=small.metadata)
    detach(base)
    return Distilled(learned, before, after) if after < before else Distilled(small, before, before)


def learn(base: Base, told: Answers) -> None:
    """Adam on the attached adapter's matrices; each look is a step, in an order that is always the same."""
    matrices = [p for model in base.components().values() for name, p in model.named_parameters() if "lora_" in name]
    rates = [RATE * p.detach().square().mean().sqrt().item() for p in matrices]
    optimizer = torch.optim.Adam([{"params": [p], "lr": 0.0} for p in matrices], betas=(0.9, 0.99))
    generator = torch.Generator().manual_seed(0)
    order = [i for _ in range(PASSES) for i in torch.randperm(len(told.looks), generator=generator).tolist()]
    for p in matrices:
        p.requires_grad_(True)
    for step, i in enumerate(order):
        part = min(1, (step + 1) / WARMUP) * (1 - step / len(order))
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = part * rate
        (guided(base, *told.looks[i]) - told.whole[i]).float().square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for p in matrices:
        p.requires_grad_(False)
