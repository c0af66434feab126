"""Our training step and our whole training, as the benchmarks run them: the library without its command line.

The trainer itself needs pydantic for its settings; a bare GPU machine may lack it, and these benchmarks must not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from benchmarks.rows import Setting
from symdream.data import draws
from symdream.diffusion.adapters import attach, save_adapters, train_adapters
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.batch import Batch, send
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.checkpointing import use_gradient_checkpointing
from symdream.diffusion.conditioning import Text, encode, size_ids, tokenize, unet_arguments
from symdream.diffusion.engine import Engine, StepParts, choose_engine
from symdream.diffusion.graph_engine import GraphEngine
from symdream.tuners import find_ramps, param_groups

RANK = 8
PROMPT = "a photo of sks toy"


@torch.no_grad()
def inputs(base: Base, batch: int, seed: int = 0) -> tuple[Tensor, Tensor, dict]:
    """Random latents (B, 4, h, w), the text's hidden states (B, 77, D), and SDXL's added conditions, on the device."""
    one = random_batch(base, batch, seed)
    told = unet_arguments(one.text.rows(one.captions), one.sizes)
    return one.x0.to(base.dtype), told.pop("encoder_hidden_states"), told


@torch.no_grad()
def random_batch(base: Base, batch: int, seed: int, *, text: bool = True) -> Batch:
    """A batch as the trainer draws it, over random latents. text: whether the caption is encoded already."""
    size, channels = base.unet.config.sample_size, base.unet.config.in_channels
    shape = (channels, size, size)
    ids = tuple(one.to(base.device) for one in tokenize(base, [PROMPT]))
    x0 = torch.stack([draws.normal(seed, k, shape, "photo") for k in range(batch)])
    return make_batch(base, seed, range(batch), x0.to(base.device), ids, encode(base, ids) if text else None)


def make_batch(
    base: Base, seed: int, samples: Sequence[int], x0: Tensor, ids: tuple[Tensor, ...], text: Text | None
) -> Batch:
    """The batch of these samples: latents x0 (B, 4, h, w) under one caption, with fresh noise and timesteps."""
    noise = torch.stack([draws.normal(seed, k, tuple(x0.shape[1:]), "noise") for k in samples])
    count = base.scheduler.config.num_train_timesteps
    sides = (base.resolution, base.resolution)
    return Batch(
        x0=x0,
        noise=send(noise, base.device),
        timesteps=send(torch.tensor([draws.timestep(seed, k, count) for k in samples]), base.device),
        captions=send(torch.zeros(len(samples), dtype=torch.long), base.device),
        token_ids=ids,
        text=text,
        sizes=send(size_ids(sides, (0, 0), sides).repeat(len(samples), 1), base.device),
    )


def make_engine(
    base: Base, method: str, components: Sequence[str], engine: str, say: Callable[[str], None], *, lr: float = 1e-4
) -> Engine:
    """The step engine over a fresh adapter on q, k, v and out, as symdream.train sets it up. say: told its lines."""
    trainable = attach(base, method, RANK, float(RANK), "qkvo", components, 0.0, 0)
    train_adapters(base, components)
    groups = [group for c, named in trainable.items() for group in param_groups(method, named.items(), lr, name=c)]
    for group in groups:
        group["base_lr"] = group["lr"]
    parts = StepParts(
        loss=BatchLoss(base, train_text_encoder="text_encoder" in components),
        optimizer=torch.optim.AdamW(groups, weight_decay=1e-4, fused=base.device.type == "cuda"),
        parameters=[p for group in groups for p in group["params"]],
        accelerator=SimpleNamespace(num_processes=1),  # accelerate keeps one setting a process, and it is the script's
        ramps=[ramp for c in components for ramp in find_ramps(base.components()[c])],
        max_grad_norm=1.0,
        dtype=base.dtype,
        unet=base.unet,
    )
    return choose_engine(engine, parts, say)


class OurStep:
    """One step as symdream.train takes it over latents at hand, its draws included: `step()` does not wait for it.

    engine: as in choose_engine, but eager steps never stand in for a graph (see `check_engine`). components: what is
    trained; where no text encoder is, the caption is encoded beforehand.
    """

    def __init__(
        self,
        base: Base,
        method: str,
        batch: int,
        *,
        engine: str = "auto",
        components: Sequence[str] = ("unet",),
        gradient_checkpointing: bool = False,
    ):
        if gradient_checkpointing:
            use_gradient_checkpointing(base, components)
        self.base, self.taken = base, 0
        self.wanted, self.said = engine, []
        self.engine = make_engine(base, method, components, engine, self.said.append)
        self.first = random_batch(base, batch, 0, text="text_encoder" not in components)

    def step(self) -> Tensor:
        self.engine.set(1.0, 1.0)
        loss, _ = self.engine.step([self._batch()])
        check_engine(self.engine, self.wanted, self.said)
        return loss

    def _batch(self) -> Batch:
        rows, one = len(self.first.x0), self.first
        self.taken += 1
        samples = range(self.taken * rows, (self.taken + 1) * rows)
        return make_batch(self.base, 0, samples, one.x0, one.token_ids, one.text)


def check_engine(engine: Engine, wanted: str, said: Sequence[str]) -> None:
    """After a step: whether what was `wanted` took it; said: the engine's lines so far.

    "auto" may be eager where a graph is not expected (on a CPU, in fp16), and "graph" a graph's code on a CPU.
    Raises: RuntimeError if eager steps stand in for a graph.
    """
    graph = isinstance(engine, GraphEngine)
    if (graph and engine.instead is not None) or (wanted == "graph" and not graph):
        raise RuntimeError(f"a graph was to be measured; {' '.join(line.strip() for line in said)}")


def train_ours(folder: Path, photos: Path, steps: int, output: Path, setting: Setting, prompt: str) -> None:
    """The whole training without the command around it: load, encode photos and prompt once, train LoRA, save.

    folder: a base in diffusers' layout. Writes a PEFT adapter into `output`/unet.
    """
    base = load_base(str(folder), device=setting.device, dtype=setting.dtype)
    posteriors = [encode_photo(base, path) for path in sorted(photos.glob("*.png"))]
    ids = tuple(one.to(base.device) for one in tokenize(base, [prompt]))
    with torch.no_grad():
        text = encode(base, ids)
    said: list[str] = []
    engine = make_engine(base, "lora", ["unet"], "auto", said.append)
    for step in range(steps):
        mean, std = posteriors[draws.image_index(0, step, len(posteriors))]
        drawn = send(draws.normal(0, step, tuple(mean.shape[1:]), "latent")[None], base.device)
        x0 = base.vae.config.scaling_factor * (mean + std * drawn)
        engine.set(1.0, 1.0)
        loss, _ = engine.step([make_batch(base, 0, [step], x0, ids, text)])
        check_engine(engine, "auto", said)
    if not torch.isfinite(loss):
        raise RuntimeError(f"loss {loss} after {steps} steps")
    save_adapters(base, ["unet"], output, {})


@torch.no_grad()
def encode_photo(base: Base, path: Path) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (1, 4, h, w), fp32, of a photo's latent at the base's resolution."""
    from PIL import Image

    size = (base.resolution, base.resolution)
    pixels = np.array(Image.open(path).convert("RGB").resize(size, Image.Resampling.BILINEAR))
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    posterior = base.vae.encode(x.to(base.device, base.dtype)).latent_dist
    return posterior.mean.float(), posterior.std.float()
