"""Small real training runs: photos made here, tiny Stable Diffusion models, the real trainer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from symdream import settings
from symdream.config import TrainConfig
from symdream.training.request import check_subject
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training


def make_photos(folder: Path, count: int = 3, size: tuple[int, int] = (80, 64)) -> Path:
    """Pictures of coloured discs on noise, different from each other and the same every time."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        random = np.random.default_rng(i)
        pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        y, x = np.mgrid[: size[1], : size[0]]
        pixels[(x - 40 - i) ** 2 + (y - 32) ** 2 < 400] = (200, 40 * i, 60)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


def bare_run(path: Path) -> RunFolder:
    """A run folder with settings in it, and nothing else."""
    run = RunFolder.create(path)
    run.config.write_text("")
    return run


def tiny_config(base: Path, photos: Path, **flags) -> TrainConfig:
    """Six quick steps; any setting can be given by its flat name."""
    given = {
        "base": str(base),
        "images": photos,
        "class_noun": "toy",
        "steps": 6,
        "batch_size": 2,
        "rank": 4,
        "lr": 1e-3,
        "checkpoint_every": 0,
        "tensorboard": False,
        "device": "cpu",
        **flags,
    }
    return settings.build(settings.merge({}, given), checks=(check_subject,))


def train_tiny(run: Path, base: Path, photos: Path, **flags) -> RunFolder:
    """Train in this process, in the run folder `run`; returns it when finished."""
    folder = RunFolder.create(run)
    run_training(folder, tiny_config(base, photos, **flags))
    return folder


def symdream(*args: object, timeout: float = 300, **kwargs) -> subprocess.CompletedProcess:
    """The symdream command as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "symdream.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout,
        **kwargs,
    )


def adapter_tensors(run: RunFolder) -> dict:
    """Every tensor of a finished run's adapter, by component and name."""
    from safetensors.torch import load_file

    return {
        f"{file.parent.name}.{name}": tensor
        for file in sorted(run.adapter.glob("*/adapter_model.safetensors"))
        for name, tensor in load_file(file).items()
    }


def stop_after(run: RunFolder, step: int) -> None:
    """Ask `run` to stop as soon as this step is recorded."""
    record = run.lines.record

    def and_stop(**values):
        record(**values)
        if values["step"] == step:
            run.stop_file.touch()

    run.lines.record = and_stop


def train_tiny_to_step_2(run: Path, base: Path, photos: Path, **flags) -> RunFolder:
    """Train in this process until a stop after step 2; returns the run folder, opened anew."""
    from symdream.errors import Stopped

    broken = RunFolder.create(run)
    stop_after(broken, 2)
    try:
        run_training(broken, tiny_config(base, photos, **flags))
        raise AssertionError("the run was asked to stop and did not")
    except Stopped:
        return RunFolder.open(broken.path)


def assert_resumes_exactly(folder: Path, base: Path, photos: Path, **flags) -> RunFolder:
    """4 steps at once equal 2 steps, a stop, and 2 more after a resume, bit for bit; returns the unbroken run."""
    import torch

    flags = {"steps": 4, **flags}
    whole = train_tiny(folder / "whole", base, photos, **flags)
    again = train_tiny_to_step_2(folder / "broken", base, photos, **flags)
    run_training(again, settings.build(settings.read_toml(again.config)), resume=True)
    ours, theirs = adapter_tensors(whole), adapter_tensors(again)
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name
    return whole
