"""What would fit on this machine, and how long a run would take: measured where it can be, labelled where not."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from symdream.diffusion.machine import Machine
from symdream.diffusion.sizes import KNOWN
from symdream.progress import duration
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
    """Median seconds of a training step of sprite with the default settings, by the engine that `train` takes here."""
    import torch

    from symdream.config import Subject, TrainConfig
    from symdream.diffusion.adapters import attach_configured, train_adapters
    from symdream.diffusion.base import load_base
    from symdream.diffusion.batch import Batch
    from symdream.diffusion.batch_loss import BatchLoss
    from symdream.diffusion.conditioning import tokenize
    from symdream.diffusion.engine import StepParts, choose_engine
    from symdream.training.defaults import resolve
    from symdream.training.devices import open_accelerator
    from symdream.training.optimizer import make_optimizer
    from symdream.tuners import find_ramps
    from symdream.ui import say

    accelerator, dtype = open_accelerator(machine.device, "auto")
    base = load_base("sprite", device=accelerator.device, dtype=dtype)
    config = resolve(TrainConfig(subject=Subject(images=Path(), class_noun="bird")), base)  # no photo of it is read
    training, size = config.training, config.training.batch_size
    components = base.chosen(config.adapter.components)
    trainable = attach_configured(base, config)
    train_adapters(base, components)
    engine = choose_engine(
        training.engine,
        StepParts(
            loss=BatchLoss(
                base, train_text_encoder="text_encoder" in components, min_snr_gamma=config.loss.min_snr_gamma
            ),
            optimizer=make_optimizer(config, trainable),
            parameters=[p for named in trainable.values() for p in named.values()],
            accelerator=accelerator,
            ramps=[one for component in components for one in find_ramps(base.components()[component])],
            max_grad_norm=training.max_grad_norm,
            dtype=dtype,
            dropout=config.adapter.dropout,
            unet=base.unet,
        ),
        say,
    )
    engine.set(1.0, 1.0)
    noise = torch.randn(size, 4, 32, 32, generator=torch.Generator().manual_seed(0)).to(base.device)
    batch = Batch(
        x0=noise.flip(0),
        noise=noise,
        timesteps=torch.full((size,), 500, device=base.device),
        captions=torch.zeros(size, dtype=torch.long, device=base.device),
        token_ids=tuple(ids.to(base.device) for ids in tokenize(base, ["a 3d render of a sks bird"])),
    )
    seconds = []
    begin = time.perf_counter()
    while len(seconds) < 1 + TIMED_STEPS and (len(seconds) < 2 or time.perf_counter() - begin < TIMING_LIMIT):
        start = time.perf_counter()
        _, norm = engine.step([batch])
        norm.item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return median(seconds[1:])  # the first one also prepares the kernels, and records the step where that is done


def time_estimates(machine: Machine, sprite_step: float) -> list[TimeEstimate]:
    """The default number of steps on sprite, from the measured step; sd15 on a CPU scaled by FLOPs.

    On a GPU nothing is scaled: sprite is bound by launches there, SD 1.5 by arithmetic, so one does not tell the other.
    """
    from symdream.config import TrainConfig

    training = TrainConfig().training
    total = sprite_step * training.steps
    shape = f"{training.steps} steps at batch {training.batch_size}"
    busy = ", on a busy machine" if hasattr(os, "getloadavg") and os.getloadavg()[0] > machine.cores else ""
    measured = f"{shape}: about {duration(total)} ({sprite_step:.2g} s a step, measured{busy})"
    found = [TimeEstimate("sprite", total, True, measured)]
    if machine.device == "cpu":
        scaled = total * KNOWN["sd15"].flops / KNOWN["sprite"].flops
        text = f"{shape}: about {duration(scaled)} (estimate: sprite's step times the ratio of FLOPs)"
        found.append(TimeEstimate("sd15", scaled, False, text))
    else:
        found.append(TimeEstimate("sd15", None, False, "unknown before it has run here: its first steps tell"))
    return found
