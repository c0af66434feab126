"""What compressing an adapter changes of its base's answers.

    symdream export runs/owl --to diffusers --dtype fp16 --compress 200KB -o plain.safetensors
    symdream export runs/owl --to diffusers --dtype fp16 --compress 200KB --calibrate -o calibrated.safetensors
    python benchmarks/compression.py runs/owl sample_data/owl/prompts.toml plain.safetensors calibrated.safetensors

For each file: its bytes, and ||eps' - eps|| / ||eps - eps_0||, where eps', eps and eps_0 are the guided noise
predictions with the file, with the run's adapter, and of the base alone, along the steps of drawing each held-out
prompt with the run's adapter. 0 is no loss; 1 is as far from the adapter as the base is.

With --photos the held-out prompts are also drawn, from --seeds seeds each, with the run's adapter and with each file,
and the change of DINO against the photos is told: the mean of the differences picture by picture, and the half of its
95 % t interval.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from scipy.stats import t as student
from torch import Tensor

import symdream.quiet  # noqa: F401
from symdream.data.captions import fill
from symdream.data.images import read_folder
from symdream.diffusion.adapters import Disabled
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.sampling import sample
from symdream.interop.open import base_of, load_adapter, open_adapter
from symdream.interop.sensitivity import Look, guided, looks_at
from symdream.metrics.encoders import load_dino
from symdream.metrics.prompts import read_prompts

SEED = 0


@torch.no_grad()
def answers(base: Base, looks: list[Look]) -> Tensor:
    return torch.cat([guided(base, *look) for look in looks])


def likeness(base: Base, prompts: list[str], seeds: int, photos: Path) -> list[float]:
    """Mean cosine of each picture with all photos (DINO); seeds pictures of each prompt."""
    dino = load_dino()
    texts = [prompt for prompt in prompts for _ in range(seeds)]
    images = sample(base, texts, [seed for _ in prompts for seed in range(seeds)])
    return (dino.images(images) @ dino.images(list(read_folder(photos).images.values())).T).mean(1).tolist()


def interval(differences: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % t interval."""
    error = statistics.stdev(differences) / len(differences) ** 0.5
    return statistics.mean(differences), float(student.ppf(0.975, len(differences) - 1)) * error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run, or the file before compressing")
    parser.add_argument("prompts", type=Path, help="prompts.toml of its subject")
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--photos", type=Path, help="folder of the subject's photos: tell the change of DINO as well")
    parser.add_argument("--seeds", type=int, default=8, help="pictures of each held-out prompt")
    args = parser.parse_args(argv)
    base, metadata = open_adapter(args.run)
    asked = read_prompts(args.prompts)
    prompts = [
        fill(p.text, trigger=metadata["trigger"], class_noun=metadata["class_noun"])
        for p in asked.prompts
        if p.held_out
    ]
    looks = looks_at(base, prompts, [SEED])
    whole = answers(base, looks)
    with Disabled(base):
        effect = (whole - answers(base, looks)).norm()
    before = likeness(base, prompts, args.seeds, args.photos) if args.photos else []
    name = base_of(args.run, metadata)
    for file in args.files:
        fresh = load_base(name)
        load_adapter(fresh.pipeline(), file)
        error = float((answers(fresh, looks) - whole).norm() / effect)
        said = f"{file}  {file.stat().st_size:,} bytes  error {error:.3f}"
        if before:
            after = likeness(fresh, prompts, args.seeds, args.photos)
            change, half = interval([new - old for new, old in zip(after, before, strict=True)])
            said += f"  DINO {statistics.mean(before):.3f} to {statistics.mean(after):.3f}: {change:+.3f} ± {half:.3f}"
        print(said, flush=True)


if __name__ == "__main__":
    main()
