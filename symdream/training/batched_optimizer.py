"""AdamW (arXiv:1711.05101) over stacked adapters: each row with its own rates, decay and clipping.

    g_n <- g_n · min(1, c_n / (||g_n|| + 1e-6))          the norm over all that adapter n trains
    m <- β1 m + (1-β1) g,   v <- β2 v + (1-β2) g²
    p <- (1 - lr_n w_n) p - lr_n (m / (1-β1^t)) / (sqrt(v / (1-β2^t)) + ε)

As torch.optim.AdamW and clip_grad_norm_ compute it for each adapter alone. Nothing is read on the host, so that a CUDA
graph can hold it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from symdream.tuners.batched import AdapterStack

BETAS, EPSILON = (0.9, 0.999), 1e-8


class StackedAdamW:
    """Updates the `values` (N, P) of stacks with the same N adapters, one stack for each model that is adapted.

    rates: for each stack (N, P), the learning rates before the schedule. decay, max_norm (N,); max_norm may be inf.
    `factors` (N,) is what the schedule multiplies the rates with: fill it before a step. `norms` (N,) are the
    gradients' norms before clipping.
    """

    def __init__(self, stacks: Sequence[AdapterStack], rates: Sequence[Tensor], decay: Tensor, max_norm: Tensor):
        self.stacks, self.rates = list(stacks), list(rates)
        self.decay, self.max_norm = decay, max_norm
        self.factors, self.norms = torch.ones_like(decay), torch.zeros_like(decay)
        self.moments = [(torch.zeros_like(s.values.data), torch.zeros_like(s.values.data)) for s in stacks]
        self.steps = torch.zeros((), device=decay.device)
        for stack in stacks:
            stack.values.grad = torch.zeros_like(stack.values)

    def tensors(self) -> list[Tensor]:
        """All that a step changes."""
        return [self.steps, *(t for pair in self.moments for t in pair), *(s.values.data for s in self.stacks)]

    def zero_grad(self) -> None:
        for stack in self.stacks:
            stack.values.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        squares = torch.stack([stack.values.grad.square().sum(1) for stack in self.stacks])
        self.norms.copy_(squares.sum(0).sqrt())
        clip = (self.max_norm / (self.norms + 1e-6)).clamp(max=1)[:, None]
        self.steps += 1
        # 1 - β^t = -expm1(t ln β): in single precision 1 - β2^t itself would be off by 5e-5 at the first step.
        bias1, bias2 = (-torch.expm1(self.steps * math.log(beta)) for beta in BETAS)
        size, root = 1 / bias1, bias2.sqrt()
        for stack, rates, (m, v) in zip(self.stacks, self.rates, self.moments, strict=True):
            gradient = stack.values.grad * clip
            lr = rates * self.factors[:, None]
            m.lerp_(gradient, 1 - BETAS[0])
            v.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            stack.values.mul_(1 - lr * self.decay[:, None])
            stack.values.sub_(lr * size * m / ((v.sqrt() / root) + EPSILON))
