"""What a run needs in memory, and which changes to its settings would save how much: asked when memory ran out.

Estimates from counts (symdream.diffusion.footprint), good to about a third: kernels take room to work that nobody
can count beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symdream.config import TrainConfig
from symdream.diffusion.footprint import Footprint, measure
from symdream.diffusion.sizes import KNOWN
from symdream.errors import WorkError, is_out_of_memory

if TYPE_CHECKING:
    from symdream.diffusion.base import Base

LIBRARIES = 1e9  # Python, PyTorch, kernels
# Bytes for each trained number: itself and its gradient in fp32, and what the optimizer remembers.
OPTIMIZER_BYTES = {"adamw": 8 + 8, "adamw8bit": 8 + 2, "prodigy": 8 + 16}
SMALL = 0.01  # of the need: less is not worth a line
SAME, NEARLY, LESS = range(3)  # what a change costs: time only, rounding, something learned


@dataclass(frozen=True)
class Change:
    """One change of the settings: its flags, the bytes it saves, what it costs in words and as SAME, NEARLY or LESS."""

    flags: str
    saving: float
    cost: str
    rank: int


def need(config: TrainConfig, size: Footprint, *, gpu: bool) -> float:
    """Estimated bytes at the peak of a training step.

    Weights + trained numbers · OPTIMIZER_BYTES + pictures in a forward · activations + LIBRARIES; with prior
    preservation each photo has a class image beside it. On a GPU the VAE, and text encoders that are frozen, do not
    count: they wait in the computer's memory.
    """
    training = config.training
    text_trained = config.adapter.components != "unet"
    weights = size.unet + (0 if gpu else size.vae) + (size.text if text_trained or not gpu else 0)
    adapters = (size.adapter + size.text_adapter) * OPTIMIZER_BYTES[training.optimizer]
    activations = size.checkpointed if training.gradient_checkpointing else size.activations
    pictures = training.batch_size * (2 if config.prior.wanted else 1)
    return weights * size.bytes_per_number + adapters + pictures * activations + LIBRARIES


def known_footprint(name: str, bytes_per_number: int) -> Footprint:
    """The footprint of sprite, sd15 or sdxl from the table of sizes, without building it.

    Adapters are left out: at the default rank they and the optimizer's memory of them take under 1 % of the whole.
    """
    known = KNOWN[name]
    kept = {"activations": known.activations[bytes_per_number], "checkpointed": known.checkpointed[bytes_per_number]}
    return Footprint(known.unet, known.vae, known.text, 0, 0, **kept, bytes_per_number=bytes_per_number)


def advice(config: TrainConfig, size: Footprint, *, gpu: bool, native_bf16: bool) -> list[Change]:
    """The three cheapest changes for this very config, the cheapest first; of equally cheap ones the larger first.

    `config` is a resolved one. Changes that save under 1 % are left out unless there are no others.
    """
    now = need(config, size, gpu=gpu)
    found = []

    def offer(flags: str, cost: str, rank: int, changed: Callable[[TrainConfig], None], **sizes: float) -> None:
        other = config.model_copy(deep=True)
        changed(other)
        saving = now - need(other, Footprint(**{**vars(size), **sizes}), gpu=gpu)
        if saving > 0:
            found.append(Change(flags, saving, cost, rank))

    training, adapter = config.training, config.adapter
    if not training.gradient_checkpointing:
        offer(
            "--gradient-checkpointing",
            "same result, a step takes about a third longer",
            SAME,
            lambda c: setattr(c.training, "gradient_checkpointing", True),
        )
    if training.batch_size > 1:
        factor = next(n for n in range(2, training.batch_size + 1) if training.batch_size % n == 0)
        batch, accumulation = training.batch_size // factor, training.accumulation * factor
        offer(
            f"--batch-size {batch} --accumulation {accumulation}",
            "same result, a step takes a little longer",
            SAME,
            lambda c: setattr(c.training, "batch_size", batch),
        )
    if size.bytes_per_number == 4 and gpu:
        flag = "--dtype bf16" if native_bf16 else "--dtype fp16"
        half = {"activations": size.activations / 2, "checkpointed": size.checkpointed / 2}
        offer(flag, "the base rounds more", NEARLY, lambda c: None, bytes_per_number=2, **half)
    if training.optimizer != "adamw8bit":
        offer(
            "--optimizer adamw8bit",
            "moments are rounded to 8 bits",
            NEARLY,
            lambda c: setattr(c.training, "optimizer", "adamw8bit"),
        )
    if adapter.components == "both":
        offer(
            "--components unet",
            "the trigger word is learned less well",
            LESS,
            lambda c: setattr(c.adapter, "components", "unet"),
            text_adapter=0,
        )
    if config.prior.class_count and not config.prior.class_images:
        offer(
            "--class-count 0",
            "the class may come to look like the subject",
            LESS,
            lambda c: setattr(c.prior, "class_count", 0),
        )
    lower = lower_resolution(config.model.resolution)
    if lower:
        # Convolutions and fused attention keep what is proportional to the area.
        share = (lower / config.model.resolution) ** 2
        offer(
            f"--resolution {lower}",
            "details are lost",
            LESS,
            lambda c: None,
            activations=size.activations * share,
            checkpointed=size.checkpointed * share,
        )
    if adapter.rank > 1:
        rank = adapter.rank // 2
        parts = {"adapter": size.adapter * rank / adapter.rank, "text_adapter": size.text_adapter * rank / adapter.rank}
        offer(f"--rank {rank}", "the adapter can hold less", LESS, lambda c: None, **parts)
    found.sort(key=lambda change: (change.saving < SMALL * now, change.rank, -change.saving))
    return found[:3]


def lower_resolution(resolution: int) -> int | None:
    """Three quarters of it on the grid that its buckets use (64 px; 8 px under 256), None below 64."""
    step = 64 if resolution >= 256 else 8
    lower = int(resolution * 0.75) // step * step
    return lower if lower >= 64 else None


@contextmanager
def out_of_memory_explained(config: TrainConfig, base: Base) -> Iterator[None]:
    """Inside it, running out of memory becomes a WorkError that names the three cheapest changes.

    `config` is resolved, and the adapters are on the base.
    """
    try:
        yield
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        failure = str(error).strip().splitlines()
        # The failed step's tensors live as long as its traceback does.
        error.__traceback__ = None
    gpu = base.device.type != "cpu"
    size = measure(base, config.model.resolution)
    raise out_of_memory(config, size, gpu=gpu, native_bf16=native_bf16(base), said=failure[0] if failure else None)


def native_bf16(base: Base) -> bool:
    import torch

    from symdream.diffusion.dtypes import auto_dtype

    return auto_dtype(base.device.type) == torch.bfloat16


def out_of_memory(config: TrainConfig, size: Footprint, *, gpu: bool, native_bf16: bool, said: str | None) -> WorkError:
    """The error with its advice."""
    training, resolution = config.training, config.model.resolution
    lines = [
        f"\n  {change.flags}: saves about {in_words(change.saving)}; {change.cost}"
        for change in advice(config, size, gpu=gpu, native_bf16=native_bf16)
    ]
    return WorkError(
        f"Out of memory: batch {training.batch_size} at {resolution} pixels needs about "
        f"{in_words(need(config, size, gpu=gpu))} (an estimate).",
        where=said and said[:200],
        fix="start again with one of the three cheapest changes:" + "".join(lines),
    )


def in_words(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{max(1, round(size / 1e6))} MB"
