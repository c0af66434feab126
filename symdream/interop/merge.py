"""A whole base with an adapter folded in, as a diffusers folder or as one file in the original layout."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from symdream.diffusion.base import Base
from symdream.diffusion.export_base import export_base
from symdream.diffusion.prediction import V_MARKER, ZERO_SNR_MARKER
from symdream.errors import WorkError
from symdream.files import write_atomically
from symdream.interop.metadata import OURS, STABILITY_AI, architecture
from symdream.interop.original import original_tensors
from symdream.tensor_file import save_tensors


def merge_into(base: Base) -> int:
    """Fold every active adapter into the weights of its layer and take the adapters away; returns how many layers.

    The sums are rounded once, to the base's number format.
    Raises: WorkError if a weight would not be finite.
    """
    count = 0
    for component, model in base.components().items():
        layers = [(name, m) for name, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
        # From the inside out, where one tuner's layer wraps another's.
        for name, layer in reversed(layers):
            try:
                _merge(layer)
            except ValueError as error:
                raise WorkError(f"{component}.{name} cannot be merged: {error}", fix="take a smaller weight") from error
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
            count += 1
        if hasattr(model, "peft_config"):
            del model.peft_config
        # What diffusers and transformers note about adapters, without which saving writes plain weights.
        model._hf_peft_config_loaded = False
    return count


def _merge(layer: BaseTunerLayer) -> None:
    """Merge one layer in at least fp32: at half precision PEFT's LoRA would round the update, and then the sum again.

    Raises: ValueError if a weight would not be finite.
    """
    whole = layer.get_base_layer()
    dtype = whole.weight.dtype
    half = dtype in (torch.float16, torch.bfloat16)
    if half:
        whole.float()
    layer.merge(safe_merge=True)
    if half:
        whole.to(dtype)
        if not whole.weight.isfinite().all():
            raise ValueError(f"the sum is too large for {str(dtype).removeprefix('torch.')}")


def write_merged(base: Base, path: Path, metadata: Mapping[str, Any], *, dtype: torch.dtype, overwrite: bool) -> int:
    """Write `base`, its adapters merged, to a diffusers folder or (`path` ends in .safetensors) one file.

    Whole or not at all; `base` is changed. Returns the bytes written.
    Raises: WorkError if a weight is not finite, or would not be in `dtype`, or for a full disk.
    """
    merge_into(base)
    base.to(dtype=dtype)
    for component, model in base.components().items():
        for name, weight in model.named_parameters():
            if not bool(weight.isfinite().all()):
                number_format = str(dtype).removeprefix("torch.")
                raise WorkError(
                    f"{component}.{name} is too large for {number_format} with the adapter merged in.",
                    fix="take --dtype bf16 or fp32, or a smaller weight",
                )
    if path.suffix != ".safetensors":
        export_base(base, path, overwrite=overwrite)
        return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    texts = {
        "format": "pt",
        OURS: json.dumps({k: v for k, v in metadata.items() if k != "shapes"}, ensure_ascii=False),
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(base.family, base.prediction_type),
        "modelspec.implementation": STABILITY_AI,
        "modelspec.title": path.stem,
        "modelspec.prediction_type": "v" if base.prediction_type == "v_prediction" else "epsilon",
        "modelspec.resolution": f"{base.resolution}x{base.resolution}",
    }
    tensors = original_tensors(base)
    if base.prediction_type == "v_prediction":
        # What checkpoints say it with to programs that read no header: empty tensors of these names. Only SDXL's say v.
        if base.family == "sdxl":
            tensors[V_MARKER] = torch.zeros(0)
        if base.scheduler.config.get("rescale_betas_zero_snr"):
            tensors[ZERO_SNR_MARKER] = torch.zeros(0)
    write_atomically(path, lambda temporary: save_tensors(tensors, temporary, texts))
    return path.stat().st_size
