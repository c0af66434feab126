"""Everything that an adapter file tells about itself: from the header alone, and by numpy from its numbers.

Needs neither torch nor the base.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from symdream.diffusion.headers import Tensor
from symdream.interop.grouping import Grouped, adapter_files, group_keys
from symdream.interop.header import AdapterHeader, read_adapter_header
from symdream.interop.keys import ALPHA, DOWN, LAMBDA, MAGNITUDE, SINGLORA_A, SYMLORA_A, UP, Place
from symdream.interop.metadata import OURS, subject_words, trained_base
from symdream.interop.spectrum import singular_values
from symdream.interop.strength import Strength

NUMPY = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "u1", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def inspect_adapter(path: Path) -> dict[str, Any]:
    """What is known about the adapter at `path`, as plain values fit for JSON.

    Keys: path, bytes, format, method, ranks, parameters, dtypes, trigger, base, components (layers by component),
    layers (name, shape, rank, norm and spectrum of the update at weight 1), unknown_keys, metadata, warnings.
    `norm` is Frobenius; for DoRA it is that of B A alone. norm and spectrum are None where they cannot be known.
    Raises: RequestError if there is no adapter, or its file is damaged, foreign or a pickle.
    """
    facts: dict[str, Any] = {"path": str(path), "bytes": 0, "format": "", "method": "", "ranks": [], "parameters": 0}
    layers, unknown, warnings, texts, dtypes, methods, formats = [], [], [], {}, set(), set(), set()
    ours: dict[str, Any] = {}
    for file, component in adapter_files(Path(path)).items():
        header = read_adapter_header(file)
        grouped = group_keys(header.tensors, component, file)
        found = _File(file, header, grouped)
        layers += found.layers
        methods |= found.methods
        formats.add(grouped.layout)
        unknown += grouped.ignored
        warnings += [w for w in found.warnings if w not in warnings]
        texts |= header.texts
        ours = ours or found.strength.ours
        dtypes |= {t.dtype for t in header.tensors.values()}
        facts["bytes"] += file.stat().st_size
        facts["parameters"] += sum(int(np.prod(t.shape)) for t in header.tensors.values())
    facts |= {
        "format": "/".join(sorted(formats)),
        # A LoRA+ file is a LoRA, an exported SingLoRA is one too: what it was trained as, only the metadata know.
        "method": "/".join(sorted(methods)),
        "trained_as": ours.get("method"),
        "ranks": sorted({layer["rank"] for layer in layers}),
        "dtypes": sorted(dtypes),
        "trigger": subject_words(ours) or texts.get("modelspec.trigger_phrase"),
        "base": trained_base(ours).get("identity") or texts.get("ss_sd_model_name"),
        "components": dict(Counter(layer["component"] for layer in layers)),
        "layers": layers,
        "unknown_keys": unknown,
        "metadata": {**{k: v for k, v in texts.items() if k != OURS}, OURS: ours},
        "warnings": warnings + _warnings(layers, unknown, ours),
    }
    return facts


class _File:
    """The layers of one file."""

    def __init__(self, path: Path, header: AdapterHeader, grouped: Grouped):
        self.path, self.header = path, header
        self.strength = Strength(path, header, grouped.layout)
        self.methods: set[str] = set()
        self.warnings: list[str] = []
        with path.open("rb") as self.stream:
            self.layers = [self._layer(place, parts) for place, parts in grouped.layers.items()]
        self.warnings += self.strength.notes

    def _array(self, tensor: Tensor) -> np.ndarray:
        self.stream.seek(tensor.start)
        content = self.stream.read(tensor.end - tensor.start)
        if tensor.dtype == "BF16":
            # The upper half of a float32.
            return (np.frombuffer(content, "<u2").astype(np.uint32) << 16).view(np.float32).reshape(tensor.shape)
        return np.frombuffer(content, NUMPY[tensor.dtype]).reshape(tensor.shape)

    def _layer(self, place: Place, parts: Mapping[str, str]) -> dict[str, Any]:
        tensors = {part: self.header.tensors[key] for part, key in parts.items()}
        first = next(tensors[p] for p in (DOWN, SINGLORA_A, SYMLORA_A) if p in tensors)
        rank = first.shape[0] if first.shape else 0
        facts = {"component": place.component, "layer": place.module, "rank": rank, "norm": None, "spectrum": None}
        self.methods.add(_method(tensors))
        arrays = {part: self._array(tensor) for part, tensor in tensors.items()}
        bad = next((parts[p] for p, a in arrays.items() if not np.isfinite(a).all()), None)
        if bad:
            self.warnings.append(f"NaN or infinite numbers, first in {bad}: no tool should load this file")
        factors = None
        if rank == 0:
            self.warnings.append(f"rank 0: {place}")
        elif not _fit(arrays):
            self.warnings.append(f"the parts of {place} do not fit each other")
        elif not bad:
            factors = self._factors(place, arrays)
        if factors:
            B, A = factors
            spectrum = singular_values(B, A)
            facts["norm"], facts["spectrum"] = float(np.linalg.norm(spectrum)), [float(s) for s in spectrum]
        facts["shape"] = [len(factors[0]), factors[1].shape[1]] if factors else None
        return facts

    def _factors(self, place: Place, arrays: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
        """(B, A) of the update, everything folded in; None if the file does not tell the layer's shape."""
        if DOWN in arrays:
            A, B = (arrays[p].astype(np.float64).reshape(len(arrays[p]), -1) for p in (DOWN, UP))
            alpha = arrays[ALPHA].item() if ALPHA in arrays else None
            return B * self.strength.plain(place, len(A), alpha), A
        A = arrays[SINGLORA_A] if SINGLORA_A in arrays else arrays[SYMLORA_A]
        A = A.astype(np.float64)
        alpha, u = self.strength.symmetric()
        if u < 1 and not self.warnings:
            self.warnings.append(f"u = {u:g}: saved before its ramp had reached 1, so it is weaker than it was to be")
        shape = self.strength.shape(place, A.shape[1])
        if shape is None:
            return None
        d = arrays.get(LAMBDA, np.ones(len(A))) * (alpha / len(A) * u)
        return A[:, : shape[0]].T * d, A[:, : shape[1]]


def _fit(arrays: Mapping[str, np.ndarray]) -> bool:
    """Whether the parts of one layer can be multiplied."""
    if DOWN in arrays:
        A, B = arrays[DOWN], arrays[UP]
        alone = ALPHA not in arrays or arrays[ALPHA].size == 1
        return alone and A.ndim == B.ndim >= 2 and B.shape[1] == len(A) and not set(B.shape[2:]) - {1}
    A = arrays.get(SINGLORA_A, arrays.get(SYMLORA_A))
    return A.ndim == 2 and (LAMBDA not in arrays or arrays[LAMBDA].shape == A.shape[:1])


def _method(tensors: Mapping[str, Tensor]) -> str:
    if SINGLORA_A in tensors:
        return "singlora"
    if SYMLORA_A in tensors:
        return "symlora"
    return "dora" if MAGNITUDE in tensors else "lora"


def _warnings(layers: list[dict], unknown: list[str], ours: Mapping[str, Any]) -> list[str]:
    warnings = []
    norms = [layer["norm"] for layer in layers if layer["norm"] is not None]
    if norms and not any(norms):
        warnings.append("the update is zero: this adapter does nothing")
    elif zero := [layer["layer"] for layer in layers if layer["norm"] == 0]:
        warnings.append(f"{len(zero)} layers have a zero update, such as {zero[0]}")
    if unknown:
        warnings.append(f"{len(unknown)} unknown keys, such as {unknown[0]}")
    if ours and not ours.get("trigger"):
        warnings.append("no trigger word in the metadata")
    return warnings
