"""The only image maker: training samples, generate, evaluate, the app and the comparison all call `sample`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from symdream.diffusion.base import Base
from symdream.diffusion.conditioning import Text, encode, size_ids, tokenize
from symdream.diffusion.damage import refuse_damaged
from symdream.diffusion.limits import SAMPLERS
from symdream.diffusion.parking import all_present, cast
from symdream.diffusion.preview import Preview
from symdream.diffusion.sampling_engine import Conditioning, denoising_step
from symdream.diffusion.stopping import ask, stoppable


def make_scheduler(base: Base, sampler: str):
    """A diffusers scheduler on the base's noise schedule ("base": the kind the base came with)."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

    kinds = {"ddim": DDIMScheduler, "euler": EulerDiscreteScheduler, "dpm++": DPMSolverMultistepScheduler}
    kind = type(base.scheduler) if sampler == "base" else kinds[sampler]
    return kind.from_config(base.scheduler.config)


@contextmanager
def evaluating(base: Base) -> Iterator[None]:
    """The base in eval mode, and afterwards in the mode it had."""
    # Part by part: while it trains, a UNet's adapters are in train mode and the rest of it is not.
    training = {part: part.training for module in base.components().values() for part in module.modules()}
    for module in base.components().values():
        module.eval()
    try:
        yield
    finally:
        for part, mode in training.items():
            part.training = mode


def drawn_by(base: Base) -> dict[str, Any]:
    """All of the base that a picture follows from, in plain JSON types: part of the keys of pictures that are kept."""
    return {
        "base": base.fingerprint,
        "dtype": str(base.dtype),
        "sampler": [type(base.scheduler).__name__, {k: str(v) for k, v in sorted(base.scheduler.config.items())}],
        "force_zeros_for_empty_prompt": base.force_zeros_for_empty_prompt,
        **base.defaults,
    }


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
    on_images: Callable[[int, list[Image.Image]], None] | None = None,
    watch: Callable[[Preview], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> list[Image.Image]:
    """One image for each (prompt, seed) pair, in order, by whatever adapters are active on the base, merged or not.

    An image's noise, at the start and of samplers that add some at each step, depends only on its own seed and is drawn
    on the CPU, so batching and device do not change what is asked for. `on_step(done, total)` is called after each
    denoising step of each batch, and so is `watch`, with what the pictures are going to be; `on_images(first, images)`
    after each batch, with what it made and the first one's place: what is kept there outlives a stop. `stop()` is asked
    many times in a step (symdream.diffusion.stopping). The pictures are those of diffusers' own pipeline; on CUDA,
    where UNet and guidance run as one recorded graph (symdream.diffusion.sampling_engine), up to rounding.

    Raises: ValueError if prompts and seeds differ in number, or the sampler is unknown; WorkError if a weight of the
    base is not finite; Stopped if `stop` says so.
    """
    if len(prompts) != len(seeds):
        raise ValueError(f"{len(prompts)} prompts but {len(seeds)} seeds")
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler {sampler!r}: know {', '.join(SAMPLERS)}")
    steps = steps or base.defaults["steps"]
    guidance = base.defaults["guidance"] if guidance is None else guidance
    size = (height or base.resolution, width or base.resolution)
    scheduler = make_scheduler(base, sampler)
    images: list[Image.Image] = []
    batches = range(0, len(prompts), batch_size)
    with all_present(base), evaluating(base), stoppable(base.unet, stop):
        for number, start in enumerate(batches):
            part = slice(start, start + batch_size)
            conditioning = encode_prompts(base, prompts[part], negative_prompt, guidance > 1, size)
            # On the CPU, where the scheduler looks its coefficients up: so no step waits for the device.
            scheduler.set_timesteps(steps, device="cpu")
            count = len(scheduler.timesteps)

            def report(done: int, x_t: Tensor, prediction: Tensor, t: Tensor, number=number, count=count) -> None:
                done, total = number * count + done, len(batches) * count
                if on_step:
                    on_step(done, total)
                if watch:
                    watch(Preview(base, scheduler, number * batch_size, done, total, x_t, prediction, t))
                ask(stop)

            generators = noise_sources(seeds[part])
            latents = starting_noise(base, generators, size) * scheduler.init_noise_sigma
            made = decode(base, denoise(base, scheduler, latents, conditioning, guidance, generators, report))
            if on_images:
                on_images(start, made)
            images += made
    return images


def encode_prompts(
    base: Base, prompts: Sequence[str], negative_prompt: str, guided: bool, size: tuple[int, int]
) -> Conditioning:
    """The conditioning of these prompts; with guidance, the rows without them come first. size: height, width."""

    def embed(texts: Sequence[str]) -> Text:
        return encode(base, [ids.to(base.device) for ids in tokenize(base, texts)])

    text = embed(prompts)
    if guided:
        if base.family == "sdxl" and base.force_zeros_for_empty_prompt and not negative_prompt:
            # No text is not "" on most of SDXL: they were trained with zeros for it.
            empty = Text(torch.zeros_like(text.hidden), torch.zeros_like(text.pooled))
        else:
            empty = embed([negative_prompt] * len(prompts))
        text = Text.cat([empty, text])
    if base.family != "sdxl":
        return Conditioning(text)
    return Conditioning(text, size_ids(size, (0, 0), size).to(base.device).repeat(len(text.hidden), 1))


def noise_sources(seeds: Sequence[int]) -> list[torch.Generator]:
    """For each image the CPU generator that all its noise comes from."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def starting_noise(base: Base, generators: Sequence[torch.Generator], size: tuple[int, int]) -> Tensor:
    """Standard normal latents (B, 4, h, w), each from its own generator; size: (height, width) in pixels."""
    from diffusers.utils.torch_utils import randn_tensor

    factor = 2 ** (len(base.vae.config.block_out_channels) - 1)
    shape = (len(generators), base.unet.config.in_channels, size[0] // factor, size[1] // factor)
    return randn_tensor(shape, generator=list(generators), device=base.device, dtype=base.dtype)


def denoise(
    base: Base,
    scheduler,
    latents: Tensor,
    conditioning: Conditioning,
    guidance: float,
    generators: Sequence[torch.Generator],
    report: Callable[..., None],
) -> Tensor:
    """From noise to latents (B, 4, h, w), along the scheduler's timesteps.

    A scheduler that adds noise on its way (Euler ancestral, LCM, DDPM) draws it from the images' `generators`.
    After each, `report(done, x_t, prediction, t)` is told what the UNet was given and said at timestep t.
    """
    step = denoising_step(base.unet, latents, conditioning, guidance if guidance > 1 else None)
    known = inspect.signature(scheduler.step).parameters
    options = {k: v for k, v in {"eta": 0.0, "generator": list(generators)}.items() if k in known}
    timesteps = scheduler.timesteps.to(base.device)
    for i, t in enumerate(scheduler.timesteps):
        x_t = scheduler.scale_model_input(latents, t)
        prediction = step.predict(x_t, timesteps[i])
        latents = scheduler.step(prediction, t, latents, **options, return_dict=False)[0]
        report(i + 1, x_t, prediction, t)
    return latents


def decode(base: Base, latents: Tensor) -> list[Image.Image]:
    """The pictures of latents (B, 4, h, w). Raises: WorkError if they are not finite since the base is not."""
    from diffusers.image_processor import VaeImageProcessor

    vae = base.vae
    # SDXL's decoder overflows in fp16.
    upcast = base.family == "sdxl" and vae.dtype == torch.float16 and vae.config.force_upcast
    if upcast:
        cast(vae, torch.float32)
    try:
        pixels = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0]
    finally:
        if upcast:
            cast(vae, torch.float16)
    if not pixels.isfinite().all():
        refuse_damaged(base)
    return VaeImageProcessor().postprocess(pixels, output_type="pil")
