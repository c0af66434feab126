"""Peak memory of training, each contestant in a process of its own: base, adapter, optimizer, graph pools and all.

    PYTHONPATH=. python benchmarks/memory.py [--shape sd15] [--output memory.json]

On CUDA it is max_memory_reserved, which counts what the allocator holds, graph pools included, and not the context
(about half a GiB). On a CPU it is the process's resident peak, the imports included. Ours: UNet's and text encoder's
adapters as `symdream train` trains them by default, batch 1; "lean" with gradient checkpointing.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

import torch  # noqa: E402

from benchmarks.rows import Row, Setting, main, wait  # noqa: E402
from symdream.training.memory import peak_memory  # noqa: E402

GOALS = {"sd15": 4.0, "sdxl": 8.0}  # GiB
CONTESTANTS = ("ours", "ours, lean", "ours, eager", "script")
STEPS = 3


def child(contestant: str, shape: str) -> None:
    """Take a few steps in this process and print the peak."""
    from benchmarks.ours import OurStep, inputs
    from benchmarks.peers import ScriptStep
    from benchmarks.shapes import make_base

    setting = Setting.here(shape)
    base = make_base(shape, setting.device, setting.dtype)
    if contestant == "script":
        latents, text, extra = inputs(base, 1)
        for module in (base.vae, *base.text_encoders):
            module.cpu()  # the conservative peer: encoded beforehand, nothing but the UNet on the device
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step = ScriptStep(setting, base.unet, latents, text, extra, dora=False).step
    else:
        base.vae.cpu()  # as the trainer does once the photos are encoded
        if setting.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        step = OurStep(
            base,
            "singlora",
            1,
            engine="eager" if "eager" in contestant else "auto",
            components=base.chosen("both"),
            gradient_checkpointing="lean" in contestant,
        ).step
    for _ in range(STEPS):
        step()
    wait(setting.device)
    print(json.dumps({"peak_bytes": peak_memory()}))


def measure(shape: str, contestants: tuple[str, ...]) -> dict:
    facts = {"goal": f"{GOALS[shape]:g} GiB"} if shape in GOALS else {}
    for contestant in contestants:
        command = [sys.executable, __file__, "--child", contestant, shape]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{contestant}: {done.stderr[-2000:]}")
        peak = json.loads(done.stdout.splitlines()[-1])["peak_bytes"]
        facts[contestant] = f"{peak / 2**30:.2f} GiB"
    return {"facts": facts}


def rows(setting: Setting) -> list[Row]:
    shapes = [setting.shape] if setting.quick or setting.shape == "sdxl" else [setting.shape, "sdxl"]
    contestants = CONTESTANTS[:1] if setting.quick else CONTESTANTS
    return [
        Row(
            "memory",
            shape,
            {"sd15": 100, "sdxl": 160, "sprite": 8}[shape],
            functools.partial(measure, shape, contestants),
        )
        for shape in shapes
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main(__doc__, rows)
