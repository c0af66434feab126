"""What would fit on this machine, and how long a run would take: measured where it can be, labelled where not."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from statistics import median

from symdream.diffusion.machine import Machine
from symdream.diffusion.sizes import KNOWN
from symdream.training.memory_advice import known_footprint, need

TIMED_STEPS = 4
TIMING_LIMIT = 6.0  # seconds: a slow machine gets fewer steps, but always one after the first
BATCHES = (1, 4)


@dataclass(frozen=True)
class Fit:
    """Whether training `base` with these settings has the memory it is estimated to need (None: unknown)."""

    base: str
    batch_size: int
    gradient_checkpointing: bool
    bytes: float
    fits: bool | None


@dataclass(frozen=True)
class TimeEstimate:
    """Seconds for a run (None: unknown); `measured` says whether steps of this very base were timed."""

    base: str
    seconds: float | None
    measured: bool
    text: str


def fits(machine: Machine) -> list[Fit]:
    """The settings that decide most, by the estimate that an out-of-memory message uses too."""
    from symdream.config import TrainConfig

    bytes_per_number = 4 if machine.dtype == "float32" else 2
    config, found = TrainConfig(), []
    for base in KNOWN:
        size = known_footprint(base, bytes_per_number)
        for batch_size in BATCHES:
            for checkpointing in (False, True):
                config.training.batch_size, config.training.gradient_checkpointing = batch_size, checkpointing
                needed = need(config, size, gpu=machine.device != "cpu")
                enough = None if machine.memory is None else needed <= machine.memory
                found.append(Fit(base, batch_size, checkpointing, needed, enough))
    return found


def seconds_per_step(machine: Machine) -> float:
    """Median seconds of a training step of sprite with the default settings (forward, backward, AdamW)."""
    import torch

    from symdream.config import TrainConfig
    from symdream.diffusion.adapters import attach
    from symdream.diffusion.base import load_base
    from symdream.diffusion.batch import Batch
    from symdream.diffusion.batch_loss import BatchLoss

    config = TrainConfig()
    base = load_base("sprite", device=machine.device, dtype=getattr(torch, machine.dtype))
    adapter, size = config.adapter, config.training.batch_size
    alpha = adapter.alpha or adapter.rank
    components = [c for c in base.components() if adapter.components in (c, "both")]
    trainable = attach(base, adapter.method, adapter.rank, alpha, adapter.targets, components, adapter.dropout, 0)
    optimizer = torch.optim.AdamW([p for named in trainable.values() for p in named.values()], lr=1e-4)
    loss = BatchLoss(base, train_text_encoder="text_encoder" in components)
    tokens = base.tokenizer("a 3d render of a sks bird", padding="max_length", max_length=77).input_ids
    noise = torch.randn(size, 4, 32, 32, generator=torch.Generator().manual_seed(0)).to(machine.device)
    batch = Batch(
        x0=noise.flip(0),
        noise=noise,
        timesteps=torch.full((size,), 500, device=machine.device),
        captions=torch.zeros(size, dtype=torch.long, device=machine.device),
        token_ids=(torch.tensor([tokens], device=machine.device),),
    )
    seconds = []
    begin = time.perf_counter()
    while len(seconds) < 1 + TIMED_STEPS and (len(seconds) < 2 or time.perf_counter() - begin < TIMING_LIMIT):
        start = time.perf_counter()
        loss(batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if machine.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])  # the first one also prepares the kernels


def time_estimates(machine: Machine, sprite_step: float) -> list[TimeEstimate]:
    """The default number of steps on sprite, from the measured step; sd15 on a CPU scaled by FLOPs.

    On a GPU nothing is scaled: sprite is bound by launches there, SD 1.5 by arithmetic, so one does not tell the other.
    """
    from symdream.config import TrainConfig

    training = TrainConfig().training
    total = sprite_step * training.steps
    shape = f"{training.steps} steps at batch {training.batch_size}"
    busy = ", on a busy machine" if hasattr(os, "getloadavg") and os.getloadavg()[0] > machine.cores else ""
    measured = f"{shape}: about {_words(total)} ({sprite_step:.2f} s a step, measured{busy})"
    found = [TimeEstimate("sprite", total, True, measured)]
    if machine.device == "cpu":
        scaled = total * KNOWN["sd15"].flops / KNOWN["sprite"].flops
        text = f"{shape}: about {_words(scaled)} (estimate: sprite's step times the ratio of FLOPs)"
        found.append(TimeEstimate("sd15", scaled, False, text))
    else:
        found.append(TimeEstimate("sd15", None, False, "unknown before it has run here: its first steps tell"))
    return found


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.0f} h"
