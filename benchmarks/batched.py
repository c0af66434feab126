"""Adapters an hour: N adapters in one step, against one after another and against the script's step.

    PYTHONPATH=. python benchmarks/batched.py [--shape sd15] [--output batched.json]

Each adapter sees one picture a step (batch 1), 400 steps. An hour's adapters are 3600 s / (400 · the time of a step
/ N): the steps alone, without loading and saving.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

import torch  # noqa: E402

from benchmarks.ours import OurStep, inputs, random_batch  # noqa: E402
from benchmarks.peers import ScriptStep  # noqa: E402
from benchmarks.rows import Row, Setting, alternate, enter, main  # noqa: E402
from benchmarks.sampling import base_of  # noqa: E402
from benchmarks.shapes import shared_base, weight_bytes  # noqa: E402
from symdream.diffusion.adapters import attach  # noqa: E402
from symdream.diffusion.base import Base  # noqa: E402
from symdream.diffusion.batched_engine import BatchedStep  # noqa: E402
from symdream.diffusion.detach import detach  # noqa: E402
from symdream.training.batched_optimizer import StackedAdamW  # noqa: E402
from symdream.tuners.batched import AdapterStack, StackedAdapter, installed  # noqa: E402

STEPS_EACH = 400
GOAL = 1500  # adapters an hour on an H100, SD 1.5's shape


class TogetherStep:
    """One step of N adapters on the UNet, as symdream.training.batched takes it."""

    def __init__(self, base: Base, method: str, count: int):
        adapters = []
        for seed in range(count):
            [named] = attach(base, method, 8, 8.0, "qkvo", ["unet"], 0.0, seed).values()
            adapters.append(StackedAdapter(method, 1.0, {name: p.detach().clone() for name, p in named.items()}))
            detach(base)
        stack = AdapterStack(adapters, base.device, base.dtype)
        self.installed = installed(base.unet, stack)
        self.installed.__enter__()
        base.unet.train()
        ones = torch.ones(count, device=base.device)
        optimizer = StackedAdamW([stack], [torch.full_like(stack.values.data, 1e-4)], 1e-2 * ones, ones)
        self.batches = [random_batch(base, 1, seed) for seed in range(count)]
        self.engine = BatchedStep(
            base, {"unet": stack}, optimizer, self.batches, captions=1, min_snr_gamma=[None] * count
        )

    def step(self) -> None:
        self.engine(self.batches)


def compare(setting: Setting, counts: tuple[int, ...]) -> dict:
    base = base_of(setting.shape, setting.device, setting.dtype)
    held = weight_bytes(base.unet)
    latents, text, extra = inputs(base, 1)
    builders = {
        "script, one adapter": lambda: (
            ScriptStep(setting, shared_base(base).unet, latents, text, extra, dora=False).step
        ),
        "ours, one adapter": lambda: OurStep(shared_base(base), "singlora", 1).step,
        **{
            f"ours, {count} together": lambda count=count: TogetherStep(shared_base(base), "singlora", count).step
            for count in counts
        },
    }
    sizes = [1, 1, *counts]
    contestants = [
        enter(name, build, size, setting, held) for (name, build), size in zip(builders.items(), sizes, strict=True)
    ]
    times = alternate(contestants, setting)
    hourly = {c.name: 3.6e6 * c.samples / (STEPS_EACH * times[c.name]["median_ms"]) for c in contestants}
    script, one = hourly["script, one adapter"], hourly["ours, one adapter"]
    return {
        "times": times,
        "ratios": {
            **{f"{name}: adapters an hour / the script's": rate / script for name, rate in hourly.items()},
            **{
                f"{name}: adapters an hour / ours alone": rate / one
                for name, rate in hourly.items()
                if "together" in name
            },
        },
        "facts": {
            "goal": f"{GOAL} adapters an hour (H100, sd15)",
            **{f"{name}: adapters an hour": round(rate, 1) for name, rate in hourly.items()},
        },
    }


def rows(setting: Setting) -> list[Row]:
    counts = (2,) if setting.quick else (4, 8, 16)
    cost = {"sd15": 60, "sdxl": 200, "sprite": 6}[setting.shape]
    return [Row("batched", f"{setting.shape}, UNet", cost, functools.partial(compare, setting, counts))]


if __name__ == "__main__":
    main(__doc__, rows)
