"""The only image maker: training samples, generate, evaluate, the app and the comparison all call `sample`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image

from symdream.diffusion.base import Base
from symdream.diffusion.parking import all_present

SAMPLERS = ("base", "ddim", "euler", "dpm++")


def make_scheduler(base: Base, sampler: str):
    """A diffusers scheduler on the base's noise schedule ("base": the kind the base came with)."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    kinds = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}
    kind = type(base.scheduler) if sampler == "base" else kinds[sampler]
    return kind.from_config(base.scheduler.config)


@contextmanager
def evaluating(base: Base) -> Iterator[None]:
    """The base in eval mode, and afterwards in the mode it had."""
    training = {m: m.training for m in base.components().values()}
    for module in training:
        module.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.train(mode)


@torch.inference_mode()
def sample(
    base: Base,
    prompts: Sequence[str],
    seeds: Sequence[int],
    *,
    steps: int | None = None,
    guidance: float | None = None,
    negative_prompt: str = "",
    sampler: str = "base",
    width: int | None = None,
    height: int | None = None,
    batch_size: int = 4,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Image.Image]:
    """One image for each (prompt, seed) pair, in order, by whatever adapters are active on the base.

    An image's starting noise depends only on its own seed, drawn on the CPU, so batching and device do not
    change what is asked for. `on_step(done, total)` is called after each denoising step of each batch.

    Raises: ValueError if prompts and seeds differ in number, or the sampler is unknown.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: know {', '.join(SAMPLERS)}")
    steps = steps or base.defaults["steps"]
    guidance = base.defaults["guidance"] if guidance is None else guidance
    pipe = base.pipeline()
    pipe.scheduler = make_scheduler(base, sampler)
    images: list[Image.Image] = []
    batches = -(-len(prompts) // batch_size)
    with all_present(base), evaluating(base):
        for batch in range(batches):
            part = slice(batch * batch_size, (batch + 1) * batch_size)

            def report(_pipe, step, _timestep, values, batch=batch):
                if on_step:
                    on_step(batch * steps + step + 1, batches * steps)
                return values

            images += pipe(
                prompt=list(prompts[part]),
                # None is not "" on SDXL: it was trained with zeros for no text, and its pipeline then gives them.
                negative_prompt=[negative_prompt] * len(prompts[part]) if negative_prompt else None,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=[torch.Generator().manual_seed(s) for s in seeds[part]],
                width=width or base.resolution,
                height=height or base.resolution,
                callback_on_step_end=report,
            ).images
    return images
