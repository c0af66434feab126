"""What compressing an adapter changes of its base's answers.

    symdream export runs/owl --to diffusers --dtype fp16 --compress 200KB -o plain.safetensors
    symdream export runs/owl --to diffusers --dtype fp16 --compress 200KB --calibrate -o calibrated.safetensors
    python benchmarks/compression.py runs/owl sample_data/owl/prompts.toml plain.safetensors calibrated.safetensors

For each file: its bytes, and ||eps' - eps|| / ||eps - eps_0||, where eps', eps and eps_0 are the guided noise
predictions with the file, with the run's adapter, and of the base alone, along the steps of drawing each held-out
prompt with the run's adapter. 0 is no loss; 1 is as far from the adapter as the base is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from symdream.data.captions import fill
from symdream.diffusion.adapters import Disabled
from symdream.diffusion.base import Base, load_base
from symdream.interop.open import base_of, load_adapter, open_adapter
from symdream.interop.sensitivity import guided, visited
from symdream.metrics.prompts import read_prompts

SEED = 0


@torch.no_grad()
def answers(base: Base, looks: list[tuple[str, Tensor, Tensor]]) -> Tensor:
    return torch.cat([guided(base, prompt, x_t, t) for prompt, x_t, t in looks])


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="the run, or the file before compressing")
    parser.add_argument("prompts", type=Path, help="prompts.toml of its subject")
    parser.add_argument("files", type=Path, nargs="+")
    args = parser.parse_args(argv)
    base, metadata = open_adapter(args.run)
    asked = read_prompts(args.prompts)
    prompts = [fill(p.text, trigger=metadata["trigger"], class_noun=metadata["class_noun"])
               for p in asked.prompts if p.held_out]  # fmt: skip
    looks = [(prompt, x_t, t) for prompt in prompts for x_t, t in visited(base, prompt, SEED)]
    whole = answers(base, looks)
    with Disabled(base):
        effect = (whole - answers(base, looks)).norm()
    name = base_of(args.run, metadata)
    for file in args.files:
        fresh = load_base(name)
        load_adapter(fresh.pipeline(), file)
        error = float((answers(fresh, looks) - whole).norm() / effect)
        print(f"{file}  {file.stat().st_size:,} bytes  error {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
