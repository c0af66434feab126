"""The embedded weights' storage: int8 with one fp16 scale per output row, in safetensors shards.

    q = round(w / s),   w' = s * q,   |w - w'| <= s / 2,   s = max|row| / 127, rounded up to fp16

A tensor `name` of two or more dimensions and at least SMALLEST numbers is stored as int8 `name`, with its
scales (rows,) under `name::scale`; every other floating tensor is stored as fp16 and integers as they are.
Rows are the first dimension: the output side of a linear or convolution weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from symdream.errors import WorkError

SCALE = "::scale"
SMALLEST = 4096  # below this a tensor's int8 form saves less than its scales and its name cost
SHARD_BYTES = 15 * 2**20


def quantise(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Round `weight` (rows, ...) to int8 (rows, ...) and fp16 scales (rows,).

    Raises: ValueError if a value is not finite or a row's scale leaves the range of fp16.
    """
    rows = weight.detach().float().flatten(1)
    largest = rows.abs().amax(dim=1)
    if not torch.isfinite(largest).all():
        raise ValueError("cannot quantise a weight with NaN or infinite values")
    exact = largest / 127
    scale = exact.half()
    # Rounded up, never down: a scale that is too small would clip the row's largest value.
    scale = torch.where(scale.float() < exact, torch.nextafter(scale, scale.new_tensor(torch.inf)), scale)
    if not torch.isfinite(scale).all():
        raise ValueError("cannot quantise a row whose values exceed 127 x 65504")
    # A row of zeros has scale 0: divide it by 1 instead.
    divisor = torch.where(scale == 0, 1, scale.float())
    quantised = (rows / divisor[:, None]).round().clamp(-127, 127).to(torch.int8)
    return quantised.view(weight.shape), scale


def dequantise(quantised: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The fp32 weight s * q: int8 (rows, ...) and scales (rows,) -> (rows, ...)."""
    return quantised.float() * scale.float().view(-1, *[1] * (quantised.ndim - 1))


def write_int8(state: Mapping[str, torch.Tensor], folder: Path, *, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write `state` as int8 shards `weights-I-of-N.safetensors` of at most `shard_bytes` of tensors each.

    A single tensor larger than `shard_bytes` gets a shard of its own.
    Raises: ValueError as `quantise` does, or when a small tensor does not fit fp16.
    """
    shards: list[dict[str, torch.Tensor]] = [{}]
    used = 0
    for name in sorted(state):
        entry = _stored(name, state[name])
        size = sum(t.numel() * t.element_size() for t in entry.values())
        if shards[-1] and used + size > shard_bytes:
            shards.append({})
            used = 0
        shards[-1].update(entry)
        used += size
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"weights-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    for path, shard in zip(paths, shards, strict=True):
        save_file(shard, path)
    return paths


def read_int8(folder: Path) -> dict[str, torch.Tensor]:
    """Read a folder of int8 shards into one state dict; floating tensors come back as fp32.

    Raises: WorkError if a shard is missing or damaged, or a weight has no scale.
    """
    paths = sorted(folder.glob("weights-*.safetensors"))
    expected = int(paths[-1].stem.rsplit("-", 1)[1]) if paths else 1
    if len(paths) != expected:
        raise WorkError(
            f"{len(paths)} of {expected} weight shards are there.",
            where=str(folder),
            fix="reinstall symdream, or restore the missing weights-*.safetensors files",
        )
    stored: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            stored.update(load_file(path))
        except (SafetensorError, OSError) as error:
            raise WorkError(
                f"A weight shard cannot be read: {error}.", where=str(path), fix="reinstall symdream"
            ) from error
    return {name: _restored(name, stored, folder) for name in stored if not name.endswith(SCALE)}


def _stored(name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    tensor = tensor.detach().cpu()
    if not tensor.is_floating_point():
        return {name: tensor.contiguous()}
    if tensor.ndim >= 2 and tensor.numel() >= SMALLEST:
        quantised, scale = quantise(tensor)
        return {name: quantised.contiguous(), name + SCALE: scale}
    small = tensor.half()
    if not torch.isfinite(small).all():
        raise ValueError(f"{name} has values that fp16 cannot hold")
    return {name: small.contiguous()}


def _restored(name: str, stored: Mapping[str, torch.Tensor], folder: Path) -> torch.Tensor:
    tensor = stored[name]
    if tensor.dtype == torch.int8:
        if name + SCALE not in stored:
            raise WorkError(f"The int8 weight {name} has no {SCALE} tensor.", where=str(folder))
        return dequantise(tensor, stored[name + SCALE])
    return tensor.float() if tensor.is_floating_point() else tensor
