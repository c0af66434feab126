"""From the start of a process to a saved adapter: ours against the structure of diffusers' script.

    PYTHONPATH=. python benchmarks/time_to_adapter.py [--shape sd15] [--output time.json]

A base of the shape, with random weights, is written to the disk first, so that loading is real; both read the same
files from the system's cache. Each contestant is a process of its own, taking turns: imports, loading, reading four
photos, 400 steps of batch 1 at the base's resolution, LoRA of rank 8 on the UNet, saving. "ours" is the library's own
loop, its kernels compiled by an earlier process (Triton keeps them on the disk); "symdream train" is the whole command
with its run folder, where its packages (pydantic, tyro) are installed.
"""

from __future__ import annotations

import functools
import importlib.util
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

from benchmarks.rows import Row, Setting, main, ratios, spread  # noqa: E402

PROMPT = "a photo of sks toy"
ROUNDS = 3
GOAL = "4 times the script, at most 15 s (H100, sd15)"
COMMAND_NEEDS = ("pydantic", "tyro", "tomli_w", "rich")
SAVED = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")


def write_inputs(folder: Path, shape: str) -> None:
    """folder/base and folder/photos (in a process of its own, so that the GPU is empty afterwards)."""
    import numpy as np
    import torch
    from PIL import Image

    from benchmarks.shapes import make_base, write_base

    device = "cuda" if torch.cuda.is_available() else "cpu"
    base = make_base(shape, device, torch.float32)
    write_base(base, folder / "base")
    (folder / "photos").mkdir()
    random = np.random.default_rng(0)
    for i in range(4):
        pixels = random.integers(0, 256, (base.resolution, base.resolution, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{i}.png")


def child(contestant: str, folder: Path, steps: int, output: Path) -> None:
    setting = Setting.here()
    if contestant == "script":
        from benchmarks.peers import train_script

        train_script(folder / "base", folder / "photos", steps, output, setting, PROMPT)
    else:
        from benchmarks.ours import train_ours

        train_ours(folder / "base", folder / "photos", steps, output, setting, PROMPT)


def command(contestant: str, folder: Path, steps: int, output: Path) -> list[str]:
    if contestant == "symdream train":
        flags = {"method": "lora", "rank": 8, "components": "unet", "batch-size": 1, "checkpoint-every": 0}
        flags |= {"base": folder / "base", "images": folder / "photos", "class-noun": "toy", "steps": steps}
        flags |= {"cache-dir": output.with_suffix(".cache")}  # its own: no latents of an earlier round
        given = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
        return [sys.executable, "-m", "symdream.cli", "train", *given, "--output", str(output)]
    return [sys.executable, __file__, "--child", contestant, str(folder), str(steps), str(output)]


def compare(setting: Setting) -> dict:
    steps, rounds = (2, 1) if setting.quick else (400, rounds_of(setting))
    contestants = ["script", "ours"]
    facts = {"steps": steps, "goal": GOAL}
    if missing := [name for name in COMMAND_NEEDS if importlib.util.find_spec(name) is None]:
        facts["symdream train"] = f"not measured: {', '.join(missing)} not installed"
    else:
        contestants.append("symdream train")
    milliseconds: dict[str, list[float]] = {name: [] for name in contestants}
    root = Path(__file__).resolve().parent.parent
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        call([sys.executable, __file__, "--write", str(folder), setting.shape], root)
        for number in range(rounds):
            if number and time.perf_counter() > setting.deadline:
                break
            turn = number % len(contestants)
            for name in [*contestants[turn:], *contestants[:turn]]:
                output = folder / f"{name.replace(' ', '-')}-{number}"
                start = time.perf_counter()
                call(command(name, folder, steps, output), root)
                milliseconds[name].append(1000 * (time.perf_counter() - start))
                if not any(list(output.rglob(file)) for file in SAVED):
                    raise RuntimeError(f"{name} saved no adapter")
    times = {
        name: {
            **spread(values),
            "images_per_second": 1000 * steps / statistics.median(values),
            "setup_seconds": 0.0,
            "peak_bytes": None,
        }
        for name, values in milliseconds.items()
    }
    ours = [name for name in contestants if name != "script"]
    return {
        "times": times,
        "ratios": {key: value for name in ours for key, value in ratios(times, name, ["script"]).items()},
        "facts": facts,
    }


def call(command: list[str], root: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])}: {done.stderr[-2000:]}")


def rounds_of(setting: Setting) -> int:
    return min(ROUNDS, setting.rounds)


def rows(setting: Setting) -> list[Row]:
    # Three rounds on SD 1.5's shape did not end in 412 s of an H100.
    once, each = {"sd15": (60, 140), "sdxl": (180, 420), "sprite": (40, 0)}[setting.shape]
    cost = once + each * rounds_of(setting)
    return [Row("time_to_adapter", setting.shape, cost, functools.partial(compare, setting))]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
    elif sys.argv[1:2] == ["--write"]:
        write_inputs(Path(sys.argv[2]), sys.argv[3])
    else:
        main(__doc__, rows)
