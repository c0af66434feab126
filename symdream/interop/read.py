"""Reads adapters of any layout: run folders, adapter folders and .safetensors files.

Needs no base: an adapter's layers are told by its keys alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from symdream.errors import RequestError
from symdream.interop.header import AdapterHeader, read_adapter_header
from symdream.interop.keys import (
    ALPHA,
    COMPONENTS,
    DOWN,
    LAMBDA,
    MAGNITUDE,
    SINGLORA_A,
    SYMLORA_A,
    UP,
    Key,
    Place,
    parse_key,
    without_text_model,
)
from symdream.interop.layers import Adapter, Layer, PlainLayer, SymmetricLayer
from symdream.interop.metadata import OURS, PEFT_METADATA

WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
WAY_OUT = "give a run folder, or a LoRA or DoRA file of diffusers, PEFT, kohya or symdream"
OTHER_KINDS = {
    "hada_w1": "a LoHa",
    "lokr_w": "a LoKr",
    "oft_": "an OFT",
    "model.diffusion_model.": "a whole checkpoint, not an adapter",
    "down_blocks.": "a UNet, not an adapter",
    "emb_params": "a textual inversion",
    "lora_transformer_": "a LoRA of another architecture (a transformer)",
    "transformer.": "a LoRA of another architecture (a transformer)",
    "double_blocks": "a LoRA of another architecture (Flux)",
}


def adapter_files(path: Path) -> dict[Path, str | None]:
    """The files of the adapter at `path`, each with its component where the folder tells it.

    Raises: RequestError if there is no adapter.
    """
    path = Path(path)
    if not path.exists():
        raise RequestError(f"There is no adapter at {path}.", fix=WAY_OUT)
    if path.is_file():
        return {path: path.parent.name if path.parent.name in COMPONENTS else None}
    for folder in (path / "adapter", path):
        files = {folder / c / WEIGHTS: c for c in COMPONENTS if (folder / c / WEIGHTS).is_file()}
        if files:
            return files
    if (path / WEIGHTS).is_file():
        return {path / WEIGHTS: path.name if path.name in COMPONENTS else None}
    if (path / "config.toml").is_file():
        raise RequestError(f"The run {path} has no adapter yet.", fix=f"finish it: symdream train --resume {path}")
    found = sorted(p.name for p in path.glob("*.safetensors"))
    raise RequestError(
        f"No adapter in {path}.", where=f"there are {', '.join(found[:5])}: name one" if found else None, fix=WAY_OUT
    )


def read_adapter(path: Path) -> Adapter:
    """The adapter at `path`: a run folder, a folder with unet/ and text_encoder/, or one .safetensors file.

    Raises: RequestError for anything that cannot be used whole: a damaged or foreign file, a pickle, NaN, rank 0.
    """
    parts = [_read_file(file, component) for file, component in adapter_files(Path(path)).items()]
    whole = parts[0]
    for part in parts[1:]:
        whole.layers.update(part.layers)
        whole.ignored += part.ignored
        whole.notes += [note for note in part.notes if note not in whole.notes]
    return whole


@dataclass
class _Parts:
    """The tensors of one layer as they are found, by part, and the key that named each."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)


def _read_file(path: Path, component: str | None) -> Adapter:
    header = read_adapter_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise RequestError(f"{path.name} is not an intact .safetensors file: {error}.", where=str(path)) from error
    found, ignored, layouts = _sort(tensors, component, path)
    if not found:
        raise nothing_found(path, list(tensors))
    ours = header.json(OURS)
    adapter = Adapter({}, ours, "/".join(sorted(layouts)), ignored)
    scales = _Scales(path, header, adapter)
    for place, parts in found.items():
        adapter.layers[place] = _layer(place, parts, scales, path)
    return adapter


def _sort(tensors: Mapping[str, Tensor], component: str | None, path: Path):
    """Tensors by layer, the keys that are none of ours, and the layouts that were met."""
    found: dict[Place, _Parts] = {}
    ignored, layouts = [], set()
    for name, tensor in tensors.items():
        key = parse_key(name)
        if key is None:
            ignored.append(name)
            continue
        layouts.add(key.layout)
        parts = found.setdefault(_place(key, component), _Parts())
        if key.part in parts.tensors:
            raise RequestError(f"{path.name} holds the same weight twice.", where=f"{parts.keys[key.part]} and {name}")
        parts.tensors[key.part], parts.keys[key.part] = tensor, name
    for place in [p for p in found if _has_foreign_part(found[p], ignored)]:
        # A layer that also has a part which is not understood would do something else without it.
        ignored += found.pop(place).keys.values()
    return found, ignored, layouts


def _has_foreign_part(parts: _Parts, ignored: list[str]) -> bool:
    if not ignored:
        return False
    key = next(iter(parts.keys.values()))
    stem = key.split(".")[0] if key.startswith("lora_") else key.rsplit(".lora", 1)[0]
    return any(name.startswith(stem + ".") for name in ignored)


def _place(key: Key, component: str | None) -> Place:
    told = key.component or component
    if told is None:
        told = "text_encoder" if key.module.startswith("text_model.") else "unet"
    return Place(told, key.module)


def nothing_found(path: Path, keys: list[str]) -> RequestError:
    kind = next((kind for part, kind in OTHER_KINDS.items() if any(part in key for key in keys)), None)
    return RequestError(
        f"No adapter weight was recognised in {path.name}: 0 of {len(keys)} keys"
        + (f"; it looks like {kind}." if kind else "."),
        where=f"keys such as {sorted(keys)[0]}" if keys else "the file is empty",
        fix=WAY_OUT,
    )


class _Scales:
    """What a file says about the strength of its layers, in whichever way its layout has for that."""

    def __init__(self, path: Path, header: AdapterHeader, adapter: Adapter):
        self.ours = header.json(OURS)
        self.adapter = adapter
        self.peft = header.json(PEFT_METADATA)
        config = path.parent / PEFT_CONFIG
        self.config = _read_config(config) if path.name == WEIGHTS and config.is_file() else None
        self.shapes = self.ours.get("shapes")

    def plain(self, place: Place, parts: _Parts) -> float:
        """LoRA's scale: the layer's own alpha, else PEFT's configuration, else 1."""
        rank = parts.tensors[DOWN].shape[0]
        if ALPHA in parts.tensors:
            return float(parts.tensors[ALPHA]) / rank
        prefix = place.component + "."
        config = self.config or {k.removeprefix(prefix): v for k, v in self.peft.items() if k.startswith(prefix)}
        if not config and self.adapter.layout == "peft":
            self.note(f"there is no {PEFT_CONFIG} beside this PEFT file: alpha is taken to be the rank")
        return _peft_scale(config, place.module, rank) if config else 1.0

    def symmetric(self) -> tuple[float | None, float]:
        """(alpha, u)."""
        config = self.config or self.ours
        u = config.get("u")
        return config.get("alpha"), 1.0 if u is None else float(u)

    def shape(self, place: Place, n: int) -> tuple[int, int] | None:
        if self.shapes is None:
            return None
        return tuple(self.shapes.get(place.module, (n, n)))

    def note(self, text: str) -> None:
        if text not in self.adapter.notes:
            self.adapter.notes.append(text)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise RequestError(f"{path} holds no JSON object.")
    return config


def _peft_scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    alpha = config.get("lora_alpha", rank)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        name = pattern.removeprefix("^")
        if without_text_model(module) == without_text_model(name) or module.endswith("." + name):
            alpha = value
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank


def _layer(place: Place, parts: _Parts, scales: _Scales, path: Path) -> Layer:
    tensors = parts.tensors
    for part, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise RequestError(f"{path.name} holds NaN or infinite numbers.", where=parts.keys[part])
        if tensor.numel() == 0:
            raise RequestError(f"{path.name} has a layer of rank 0.", where=parts.keys[part])
    if SINGLORA_A in tensors or SYMLORA_A in tensors or LAMBDA in tensors:
        return _symmetric(place, parts, scales, path)
    if DOWN not in tensors or UP not in tensors:
        raise RequestError(
            f"{path.name} has only a part of the update of {place}: {', '.join(tensors)}.",
            fix="get the file again; it seems to be cut",
        )
    A, B = tensors[DOWN], tensors[UP]
    if A.ndim != B.ndim or A.ndim not in (2, 4) or B.shape[1] != A.shape[0]:
        raise RequestError(
            f"The two factors of {place} in {path.name} do not fit each other: {tuple(A.shape)} and {tuple(B.shape)}."
        )
    return PlainLayer(A, B, scales.plain(place, parts), _magnitude(place, parts, path))


def _magnitude(place: Place, parts: _Parts, path: Path) -> Tensor | None:
    magnitude = parts.tensors.get(MAGNITUDE)
    if magnitude is None:
        return None
    out = parts.tensors[UP].shape[0]
    if parts.tensors[UP].ndim != 2 or magnitude.numel() != out or magnitude.shape[0] != out:
        raise RequestError(
            f"{path.name} is a DoRA of another kind: its magnitudes have the shape {tuple(magnitude.shape)}, "
            f"not one for each of the {out} rows of a linear layer.",
            where=parts.keys[MAGNITUDE],
            fix="use the tool it was trained with, or export it there as a LoRA",
        )
    return magnitude.flatten()


def _symmetric(place: Place, parts: _Parts, scales: _Scales, path: Path) -> SymmetricLayer:
    tensors = parts.tensors
    A = tensors.get(SINGLORA_A, tensors.get(SYMLORA_A))
    d = tensors.get(LAMBDA)
    if A is None or A.ndim != 2 or (SYMLORA_A in tensors) != (d is not None) or (d is not None and d.shape != A.shape[:1]):
        raise RequestError(f"{path.name} has only a part of the update of {place}: {', '.join(tensors)}.")
    alpha, u = scales.symmetric()
    if not isinstance(alpha, int | float):
        raise RequestError(
            f"{path.name} does not tell its alpha, and without it its strength is unknown.",
            fix=f"keep {PEFT_CONFIG} beside it, or give the run folder",
        )
    return SymmetricLayer(A, d, float(alpha), u, scales.shape(place, A.shape[1]))
