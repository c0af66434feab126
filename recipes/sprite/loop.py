"""One training loop for all stages: a whole step as one CUDA graph, in time, with averaged weights.

A step draws its pictures, runs forward and backward, clips, moves the weights and their average. All of it reads and
writes fixed tensors on the device, so that on CUDA it is recorded once and replayed: the host only sets the rate.

On CUDA the model that computes is a bf16 copy of the one that is updated. Autocast would run every normalisation in
fp32 and cast around it, and these narrow models wait for memory more than for arithmetic.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symdream.diffusion.captured import Captured
from symdream.ui import say

DECAY = 0.2  # of a training: its last part, over which the rate falls
LOWEST = 0.05  # of the rate, at the end
SYNC = 20  # steps that the host may run ahead of the device
SAY_SECONDS, SAVE_SECONDS = 15.0, 120.0


@dataclass(frozen=True)
class Budget:
    """A training ends at the first of both; steps None: by time alone."""

    seconds: float
    steps: int | None = None

    def progress(self, seconds: float, steps: int) -> float:
        return max(seconds / self.seconds, steps / self.steps if self.steps else 0.0)


def rate_at(step: int, progress: float, warmup: int) -> float:
    """What part of the rate holds: a short warm-up (the optimizer starts anew in every piece), whole, then linearly
    down to LOWEST over the last DECAY of the piece."""
    rising = min(1.0, (step + 1) / warmup)
    falling = min(1.0, LOWEST + (1 - LOWEST) * max(0.0, 1 - progress) / DECAY)
    return min(rising, falling)


def computing_dtype(device: torch.device) -> torch.dtype:
    """What models compute in, the frozen ones too."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


class Averaged:
    """The exponential moving average of a module's parameters: a copy that `update` moves, never waiting.

    w' <- d w' + (1 - d) w,   d = min(decay, (1 + n) / (10 + n)) at the n-th update
    """

    def __init__(self, module: nn.Module, decay: float):
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.decay = decay
        self._pairs = list(self.module.parameters()), [p.detach() for p in module.parameters()]
        self.count = torch.zeros((), device=self._pairs[0][0].device)

    @torch.no_grad()
    def update(self) -> None:
        self.count += 1
        decay = ((1 + self.count) / (10 + self.count)).clamp(max=self.decay)
        mine, theirs = self._pairs
        torch._foreach_mul_(mine, decay)
        torch._foreach_add_(mine, torch._foreach_mul(theirs, 1 - decay))


class Loop:
    """Trains `module` on `loss(model, average)`, which draws its own batch on the device.

    model: the module itself, or the copy of it in `dtype` that computes in its place (default: bf16 on CUDA, fp32
    elsewhere); the optimizer moves the module's own weights, in fp32. average: the module's EMA, in fp32.
    eager: launch every kernel by itself on CUDA too (should a graph not be recordable).
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[nn.Module, nn.Module], Tensor],
        *,
        lr: float,
        ema: float,
        warmup: int,
        device: torch.device,
        eager: bool = False,
        dtype: torch.dtype | None = None,
        weight_decay: float = 0.01,
    ):
        self.module, self.lr, self.warmup, self.device = module.train(), lr, warmup, device
        self.average = Averaged(module, ema)
        self._rate = torch.zeros((), device=device)
        self._mean = torch.zeros((), device=device)
        dtype = dtype or computing_dtype(device)
        self.model = module if dtype == torch.float32 else nn.Module.to(copy.deepcopy(module), dtype)
        self.parameters, computing = ([p for p in one.parameters() if p.requires_grad] for one in (module, self.model))
        cuda = device.type == "cuda"
        self._optimizer = torch.optim.AdamW(
            self.parameters, lr=self._rate, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True, capturable=cuda
        )

        def step() -> None:
            # None, not zero: the backward of a recording then writes the gradients instead of adding to them.
            self.model.zero_grad(set_to_none=True)
            value = loss(self.model, self.average.module)
            value.backward()
            if self.model is not module:
                for parameter, copied in zip(self.parameters, computing, strict=True):
                    parameter.grad = None if copied.grad is None else copied.grad.float()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
            self._optimizer.step()
            if self.model is not module:
                with torch.no_grad():
                    torch._foreach_copy_(computing, self.parameters)
            self.average.update()
            # The mean of the first steps, then of about the last twenty.
            self._mean += (value.detach().float() - self._mean) * (1 / self.average.count).clamp(min=0.05)

        self._step = step if eager else Captured(step, device)

    def run(
        self,
        name: str,
        budget: Budget,
        *,
        between: Callable[[int], None] | None = None,
        save: Callable[[nn.Module, int], None] | None = None,
        first: int = 0,
    ) -> int:
        """Train until the budget is spent; returns the step reached, counted from `first`.

        between(step): called before every step. save(average, step): every two minutes.
        Raises: ValueError if the loss is no longer finite.
        """
        start = said = saved = time.perf_counter()
        done = 0
        while (progress := budget.progress(time.perf_counter() - start, done)) < 1:
            if between:
                between(done)
            self._rate.fill_(self.lr * rate_at(done, progress, self.warmup))
            self._step()
            done += 1
            if done % SYNC == 0:
                value, now = self._mean.item(), time.perf_counter()  # waits for the device
                if value != value:
                    raise ValueError(f"{name}: the loss is not a number after {done} steps")
                if now - said > SAY_SECONDS:
                    said = now
                    say(f"{name}: step {first + done}, loss {value:.4f}, {done / (now - start):.1f} steps/s")
                if save and now - saved > SAVE_SECONDS:
                    saved = now
                    save(self.average.module, first + done)
        seconds = time.perf_counter() - start
        say(f"{name}: {done} steps in {seconds:.0f} s, loss {self._mean.item():.4f}")
        return first + done
