"""Learning rate and ramp as functions of the step."""

from __future__ import annotations

import math


def lr_factor(step: int, steps: int, schedule: str, warmup: float) -> float:
    """What the learning rate is multiplied with at 0-based `step` of `steps`.

    Warm-up: (step + 1) / W over the first W = round(warmup · steps) steps. After it, with x in [0, 1) the
    fraction done since: constant 1, linear 1 - x, cosine (1 + cos πx) / 2.
    Raises: ValueError for an unknown schedule.
    """
    warm = round(warmup * steps)
    if step < warm:
        return (step + 1) / warm
    x = (step - warm) / max(1, steps - warm)
    if schedule == "constant":
        return 1.0
    if schedule == "linear":
        return 1 - x
    if schedule == "cosine":
        return (1 + math.cos(math.pi * x)) / 2
    raise ValueError(f"schedule {schedule!r}: know constant, linear, cosine")


def ramp(step: int, steps: int, fraction: float | None) -> float:
    """SingLoRA's u at 0-based `step`: min((step + 1) / T, 1), T = round(fraction · steps); 1 where T = 0.

    A method without a ramp has fraction None.

    The paper (arXiv:2507.05566, section 4.1) has min(t / T, 1); t = step + 1, since u(0) = 0 would give the
    first step no gradient.
    """
    ramp_steps = round((fraction or 0) * steps)
    return 1.0 if ramp_steps == 0 else min((step + 1) / ramp_steps, 1.0)


def ramp_after(done: int, steps: int, fraction: float | None) -> float:
    """SingLoRA's u as it was in the last of `done` steps: what an adapter saved after them is used with."""
    return ramp(done - 1, steps, fraction)
