"""A SingLoRA training step against PEFT LoRA's, on the embedded base and CPU.

    python benchmarks/step_cpu.py [--method singlora] [--pairs 30] [--rank 8] [--batch 4] [--output FILE.json]

One process holds two copies of the base, one with each method on q, k, v and out of UNet and text encoder. A step is
everything that training does at every step: text encoder, UNet, loss, backward, AdamW (and SingLoRA's ramp). The two
take turns on the same batch, first now one, now the other, so that a busy machine slows both alike. Reported: the
median over the pairs of (time of the method / time of LoRA), with its 95 % sign interval, which assumes nothing about
how the times are distributed.
"""

from __future__ import annotations

import copy
import platform
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

import torch  # noqa: E402

from benchmarks.pairs import run, sign_interval  # noqa: E402
from symdream.diffusion.base import Base, load_base  # noqa: E402
from symdream.diffusion.loss import add_noise, diffusion_loss, prediction_target  # noqa: E402
from symdream.tuners import METHODS, param_groups, set_ramp, target_modules  # noqa: E402

BASELINE = "lora"
COMPONENTS = ("unet", "text_encoder")


class Trainee:
    """A copy of the base under one method, and its optimizer."""

    def __init__(self, base: Base, method: str, rank: int):
        self.method = METHODS[method]
        self.alphas_cumprod = base.scheduler.alphas_cumprod
        self.prediction_type = base.prediction_type
        self.models = {name: copy.deepcopy(base.components()[name]) for name in COMPONENTS}
        groups = []
        for name, model in self.models.items():
            model.requires_grad_(False)
            model.add_adapter(self.method.config(rank, rank, target_modules("qkvo", name), 0.0))
            model.train()
            groups += param_groups(self.method, model.named_parameters(), self.method.lr, name=name)
        self.optimizer = torch.optim.AdamW(groups)
        self.parameters = sum(p.numel() for group in groups for p in group["params"])

    def step(self, x0, noise, timesteps, token_ids) -> float:
        """One training step; its seconds."""
        start = time.perf_counter()
        if self.method.has_ramp:
            for model in self.models.values():
                set_ramp(model, 1.0)
        text = self.models["text_encoder"](token_ids)[0]
        x_t = add_noise(x0, noise, self.alphas_cumprod, timesteps)
        prediction = self.models["unet"](x_t, timesteps, text).sample
        target = prediction_target(x0, noise, self.alphas_cumprod, timesteps, self.prediction_type)
        diffusion_loss(prediction, target).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def draw(base: Base, batch: int, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
    """Random latents, noise, timesteps and prompts of the right sizes."""
    size, channels = base.unet.config.sample_size, base.unet.config.in_channels
    shape = (batch, channels, size, size)
    words = torch.randint(0, base.text_encoder.config.eos_token_id, (batch, 77), generator=generator)
    words[:, -1] = base.text_encoder.config.eos_token_id
    timesteps = torch.randint(0, len(base.scheduler.alphas_cumprod), (batch,), generator=generator)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), timesteps, words


def measure(method: str, pairs: int, rank: int, batch: int, warmup: int = 3) -> dict:
    base = load_base("sprite")
    trainees = {name: Trainee(base, name, rank) for name in (BASELINE, method)}
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in trainees}
    for pair in range(-warmup, pairs):
        inputs = draw(base, batch, generator)
        order = list(trainees) if pair % 2 else list(reversed(trainees))
        for name in order:
            taken = trainees[name].step(*inputs)
            if pair >= 0:
                seconds[name].append(taken)
        print(f"\rpair {max(pair + 1, 0)} of {pairs}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    ratios = [ours / theirs for ours, theirs in zip(seconds[method], seconds[BASELINE], strict=True)]
    low, high = sign_interval(ratios)
    return {
        "method": method,
        "baseline": BASELINE,
        "rank": rank,
        "batch": batch,
        "pairs": pairs,
        "median_ratio": statistics.median(ratios),
        "interval_95": [low, high],
        "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "parameters": {name: trainee.parameters for name, trainee in trainees.items()},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds": seconds,
    }


def main() -> None:
    result = run(
        __doc__,
        measure,
        lambda r: f"{r['method']} r{r['rank']}: {r['median_ratio']:.3f} of {BASELINE}'s step",
        pairs=30,
        methods=[name for name in METHODS if name != BASELINE],
    )
    print(f"  trainable parameters {result['parameters']}")


if __name__ == "__main__":
    main()
