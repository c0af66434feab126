"""Pictures a second: `sample` with an adapter on (unmerged, merged) against diffusers' own pipeline.

    PYTHONPATH=. python benchmarks/sampling.py [--shape sd15] [--output sampling.json]

All make the same pictures: same prompts, seeds, steps, guidance, LoRA on the UNet's q, k, v and out. The row tells by
how many of 255 levels they differ: on CPU by none; on CUDA by the rounding of our group normalisation, which keeps fp32
up to SiLU's output where PyTorch's rounds in between (with SYMDREAM_KERNELS=0 the same kernels run: then unmerged by
none, unless a library chooses another one while recording); merged also by the rounding of the weights.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

import numpy as np  # noqa: E402
import torch  # noqa: E402

from benchmarks.rows import Row, Setting, alternate, enter, main, ratios  # noqa: E402
from benchmarks.shapes import make_base, shared_base, weight_bytes  # noqa: E402
from symdream.diffusion.adapters import adapter_layers, attach  # noqa: E402
from symdream.diffusion.base import Base  # noqa: E402
from symdream.diffusion.sampling import make_scheduler, sample  # noqa: E402

PROMPT = "a 3d render of a sks bird on a red background"
GOAL = 3.0  # times diffusers' eager pipeline

base_of = functools.lru_cache(maxsize=1)(make_base)


def with_adapter(base: Base, *, merged: bool = False) -> Base:
    """The base again, under a LoRA of the size that training leaves; merging takes a copy of the weights."""
    base = shared_base(base)
    attach(base, "lora", 8, 8.0, "qkvo", ["unet"], 0.0, 0)
    for name, parameter in base.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator(parameter.device).manual_seed(0))
    if merged:
        for layer in adapter_layers(base.unet):
            weight = layer.get_base_layer().weight
            layer.get_base_layer().weight = torch.nn.Parameter(weight.detach().clone(), requires_grad=False)
            layer.merge()
    return base


class Pipeline:
    """diffusers' pipeline over the same modules, eager."""

    def __init__(self, base: Base, steps: int):
        self.base, self.steps, self.pipe = base, steps, base.pipeline()
        self.pipe.scheduler = make_scheduler(base, "base")

    def make(self, batch: int) -> list:
        with torch.inference_mode():
            return self.pipe(
                prompt=[PROMPT] * batch,
                num_inference_steps=self.steps,
                guidance_scale=self.base.defaults["guidance"],
                generator=[torch.Generator().manual_seed(seed) for seed in range(batch)],
                height=self.base.resolution,
                width=self.base.resolution,
            ).images


def compare(setting: Setting, batch: int) -> dict:
    base = base_of(setting.shape, setting.device, setting.dtype)
    steps = 2 if setting.quick else base.defaults["steps"]
    theirs = Pipeline(with_adapter(base), steps)
    bases = {"ours": with_adapter(base), "ours, merged": with_adapter(base, merged=True)}

    def maker(one: Base):
        return lambda: sample(one, [PROMPT] * batch, list(range(batch)), steps=steps, batch_size=batch)

    makers = {"diffusers pipeline": lambda: theirs.make(batch), **{name: maker(one) for name, one in bases.items()}}
    held = weight_bytes(base.unet, base.vae, *base.text_encoders)
    contestants = [enter(name, lambda make=make: make, batch, setting, held) for name, make in makers.items()]
    times = alternate(contestants, setting, steps=1, rounds=7)
    wanted = np.asarray(theirs.make(batch), dtype=int)
    facts = {"denoising steps": steps, "goal": f"{GOAL:g} times the pipeline"}
    for name in bases:
        difference = np.abs(np.asarray(makers[name](), dtype=int) - wanted)
        facts[f"{name}: levels of 255 apart"] = f"{difference.max()} at most, {difference.mean():.3f} on average"
    return {
        "times": times,
        "ratios": {r: v for name in bases for r, v in ratios(times, name, ["diffusers pipeline"]).items()},
        "facts": facts,
    }


def rows(setting: Setting) -> list[Row]:
    cost = {"sd15": 70, "sdxl": 200, "sprite": 4}[setting.shape]
    batches = (1,) if setting.quick else (1, 4)
    return [
        Row("sampling", f"{setting.shape} batch {batch}", cost, functools.partial(compare, setting, batch))
        for batch in batches
    ]


if __name__ == "__main__":
    main(__doc__, rows)
