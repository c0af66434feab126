"""A training step on the GPU: ours, eager and as one graph, against the script's and against the floor.

    PYTHONPATH=. python benchmarks/step_gpu.py [--shape sd15] [--output step.json]

The floor is the frozen UNet's forward and its backward to its input, in a graph: no adapter can be faster. The script's
step is built as diffusers' DreamBooth-LoRA script builds it (benchmarks/peers.py), over latents and text that are at
hand, as ours. All adapt the UNet's q, k, v and out at rank 8. Peak memory is what the allocator holds (graph pools
included), the base's UNet included once; setup is the building, warming up and recording of a contestant. Where our
kernels cannot be used, the contestants that compare them with PyTorch's are left out, and the row says why.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

from benchmarks.ours import OurStep, inputs  # noqa: E402
from benchmarks.peers import Floor, ScriptStep  # noqa: E402
from benchmarks.rows import ROUNDS, Row, Setting, alternate, enter, kernels, main  # noqa: E402
from benchmarks.sampling import base_of  # noqa: E402
from benchmarks.shapes import shared_base, weight_bytes  # noqa: E402
from symdream.diffusion.group_norm import SWITCH  # noqa: E402
from symdream.tuners import METHODS  # noqa: E402

GOALS = {1: 9.0, 4: 4.0}  # times the script's LoRA step, H100, SD 1.5's shape
HEADLINE = ("floor, graph", "script, LoRA", "lora, graph", "singlora, graph")
KERNELS = ("floor, graph, our kernels", "singlora, graph, PyTorch's kernels")
EVERYTHING = (
    *HEADLINE,
    *KERNELS,
    "floor, eager",
    "script, DoRA",
    *(f"{method}, graph" for method in METHODS if method not in ("lora", "singlora")),
    "lora, eager",
    "singlora, eager",
)


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Recordings within it take PyTorch's kernels."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "0"
    try:
        yield
    finally:
        os.environ.pop(SWITCH) if before is None else os.environ.update({SWITCH: before})


def compare(setting: Setting, batch: int, names: tuple[str, ...]) -> dict:
    base = base_of(setting.shape, setting.device, setting.dtype)
    latents, text, extra = inputs(base, batch)

    def build(name: str):
        kind, how, *whose = name.split(", ")
        own = shared_base(base)
        if kind == "floor":
            return Floor(own.unet, latents, text, extra, graph=how == "graph", ours=bool(whose)).step
        if kind == "script":
            return ScriptStep(setting, own.unet, latents, text, extra, dora=how == "DoRA").step
        step = OurStep(own, kind, batch, engine=how).step
        with switched_off() if whose else contextlib.nullcontext():
            step()  # records
        return step

    facts = {}
    if (whose := kernels(setting)) != "ours":
        facts = {name: f"not measured: the kernels are {whose}" for name in names if name in KERNELS}
        names = tuple(name for name in names if name not in KERNELS)
    if setting.device.type != "cuda":
        facts["graph"] = "nothing is recorded on a CPU: the same code runs op by op"
    held = weight_bytes(base.unet)
    contestants = [enter(name, functools.partial(build, name), batch, setting, held) for name in names]
    times = alternate(contestants, setting)

    def over(one: str, other: str) -> dict[str, float]:
        present = one in times and other in times
        return {f"{one} / {other}": times[one]["median_ms"] / times[other]["median_ms"]} if present else {}

    ratios = {}
    for name in names:
        if ", graph" in name and not name.startswith("floor"):
            ratios |= over("script, LoRA", name) | over(name, "floor, graph")
    ratios |= over("singlora, graph", "lora, graph") | over("script, DoRA", "dora, graph")
    ratios |= over("singlora, eager", "singlora, graph")
    ratios |= over("floor, graph", KERNELS[0]) | over(KERNELS[1], "singlora, graph")
    ratios |= over("singlora, graph", KERNELS[0])
    facts["goals"] = "singlora, graph / floor, graph at most 1.10; singlora, graph / lora, graph at most 1.00"
    if batch in GOALS:
        facts["goals"] += f"; script, LoRA / ours at least {GOALS[batch]:g} (H100, sd15)"
    return {"times": times, "ratios": ratios, "facts": facts}


def rows(setting: Setting) -> list[Row]:
    """The headline at batch 1 and 4; then everything at batch 1, 4 and 8."""
    whole = {"sd15": 9, "sdxl": 30, "sprite": 1.5}[setting.shape]  # seconds a contestant with all rounds
    cost = whole * (0.25 + 0.75 * setting.rounds / ROUNDS)
    if setting.quick:
        plan = [(1, HEADLINE), (1, ("floor, eager", "script, DoRA", "symlora, graph", "singlora, eager", *KERNELS))]
    else:
        plan = [(batch, (*HEADLINE, *KERNELS)) for batch in (1, 4)]
        plan += [(batch, EVERYTHING) for batch in (1, 4, 8)]
    return [
        Row(
            "step_gpu",
            f"{setting.shape} batch {batch}, {len(names)} contestants",
            cost * len(names) * (1 + batch / 4),
            functools.partial(compare, setting, batch, names),
        )
        for batch, names in plan
    ]


if __name__ == "__main__":
    main(__doc__, rows)
