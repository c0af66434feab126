"""Reads adapters of any layout: run folders, adapter folders and .safetensors files.

Needs no base: an adapter's layers are told by its keys alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from symdream.errors import RequestError
from symdream.interop.grouping import adapter_files, group_keys
from symdream.interop.header import read_adapter_header
from symdream.interop.keys import ALPHA, BIAS, DOWN, LAMBDA, MAGNITUDE, SINGLORA_A, SYMLORA_A, UP, Place
from symdream.interop.layers import Adapter, Layer, PlainLayer, SymmetricLayer
from symdream.interop.strength import Strength
from symdream.utf8 import is_utf8


def read_adapter(path: Path) -> Adapter:
    """The adapter at `path`, named after it: a run folder, a folder with unet/ and text_encoder/, or one file.

    Raises: RequestError for anything that cannot be used whole: a damaged or foreign file, a pickle, NaN, rank 0.
    """
    parts = [_read_file(file, component) for file, component in adapter_files(Path(path)).items()]
    whole = replace(parts[0], name=str(path))
    for part in parts[1:]:
        whole.layers.update(part.layers)
        whole.ignored += part.ignored
        whole.notes += [note for note in part.notes if note not in whole.notes]
    return whole


def _read_file(path: Path, component: str | None) -> Adapter:
    header = read_adapter_header(path)
    if not is_utf8(path):
        raise RequestError(
            f"{path} cannot be opened: its path is not UTF-8, and safetensors reads no other.",
            fix="give the file or folder another name",
        )
    grouped = group_keys(header.tensors, component, path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path.name} is not an intact .safetensors file: {error}.", where=str(path)) from error
    strength = Strength(path, header, grouped.layout)
    layers = {
        place: _layer(place, {part: tensors[key] for part, key in parts.items()}, parts, strength)
        for place, parts in grouped.layers.items()
    }
    return Adapter(layers, strength.ours, grouped.layout, grouped.ignored, strength.notes, header.texts)


def _layer(place: Place, tensors: Mapping[str, Tensor], keys: Mapping[str, str], strength: Strength) -> Layer:
    file = strength.path.name
    for part, tensor in tensors.items():
        if tensor.numel() == 0:
            raise RequestError(f"{file} has a layer of rank 0.", where=keys[part])
        if not bool(tensor.isfinite().all()):
            raise RequestError(f"{file} holds NaN or infinite numbers.", where=keys[part])
    if DOWN not in tensors:
        return _symmetric(place, tensors, strength)
    A, B = tensors[DOWN], tensors[UP]
    if A.ndim != B.ndim or A.ndim not in (2, 4) or B.shape[1] != A.shape[0] or set(B.shape[2:]) - {1}:
        raise RequestError(f"The two factors of {place} in {file} do not fit: {tuple(A.shape)} and {tuple(B.shape)}.")
    if ALPHA in tensors and tensors[ALPHA].numel() != 1:
        raise RequestError(f"{file} has an alpha of {tensors[ALPHA].numel()} numbers.", where=keys[ALPHA])
    if BIAS in tensors and bool(tensors[BIAS].any()):
        raise RequestError(
            f"{file} also trains biases (PEFT's lora_bias), which no other layout has.",
            where=keys[BIAS],
            fix="merge it into its base with PEFT",
        )
    strength.check_base(place.component)
    alpha = tensors[ALPHA].item() if ALPHA in tensors else None
    scale = strength.plain(place, A.shape[0], alpha)
    return PlainLayer(A, B, scale, _magnitude(tensors, keys, file))


def _magnitude(tensors: Mapping[str, Tensor], keys: Mapping[str, str], file: str) -> Tensor | None:
    magnitude = tensors.get(MAGNITUDE)
    if magnitude is None:
        return None
    out = tensors[UP].shape[0]
    if tensors[UP].ndim != 2 or magnitude.numel() != out or magnitude.shape[0] != out:
        raise RequestError(
            f"{file} is a DoRA of another kind: its magnitudes have the shape {tuple(magnitude.shape)}, "
            f"not one for each of the {out} rows of a linear layer.",
            where=keys[MAGNITUDE],
            fix="use the tool it was trained with, or export it there as a LoRA",
        )
    return magnitude.flatten()


def _symmetric(place: Place, tensors: Mapping[str, Tensor], strength: Strength) -> SymmetricLayer:
    A, d = tensors.get(SINGLORA_A, tensors.get(SYMLORA_A)), tensors.get(LAMBDA)
    if A.ndim != 2 or (d is not None and d.shape != A.shape[:1]):
        raise RequestError(f"The parts of {place} in {strength.path.name} do not fit each other.")
    alpha, u = strength.symmetric()
    return SymmetricLayer(A, d, alpha, u, strength.shape(place, A.shape[1]))
