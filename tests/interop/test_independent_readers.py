"""Our kohya files through readers that share nothing with the code that wrote them."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from helpers.original_names import original_unet_module
from helpers.tiny_bases import FAMILIES, adapted, base_answers, distance, tiny_base
from safetensors.torch import load_file
from torch import nn

from symdream.interop.collect import collect
from symdream.interop.lora_file import write_lora

PREFIXES = {
    "sd1": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sd2": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sdxl": {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
NUMBERS = {"F32": np.float32, "F16": np.float16}


def read_safetensors(path) -> dict[str, np.ndarray]:
    """From the format's definition: a length, a JSON header, then the bytes."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    arrays = {}
    for name, entry in header.items():
        start, end = (8 + length + offset for offset in entry["data_offsets"])
        arrays[name] = np.frombuffer(content[start:end], NUMBERS[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def kohyas_name(family: str, component: str, model, name: str) -> str:
    """What sd-scripts calls a module: it trains SDXL in Stability AI's UNet, others in diffusers', and all in
    transformers' CLIP, whose text encoder calls its inner model text_model."""
    if component != "unet":
        name = name if name.startswith("text_model.") else f"text_model.{name}"
    elif family == "sdxl":
        name = original_unet_module(name, model)
    return f"{PREFIXES[family][component]}_{name.replace('.', '_')}"


@torch.no_grad()
def add_kohya(base, path) -> int:
    """W += up @ down * alpha / rank for every layer that the file names; returns how many keys were used."""
    arrays = read_safetensors(path)
    used = 0
    for component, model in base.components().items():
        for name, module in model.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            key = kohyas_name(base.family, component, model, name)
            if f"{key}.lora_up.weight" in arrays:
                up, down, alpha = (arrays[f"{key}.{end}"] for end in ("lora_up.weight", "lora_down.weight", "alpha"))
                update = up.astype(np.float64) @ down.astype(np.float64) * (float(alpha) / len(down))
                module.weight += torch.from_numpy(update).float()
                used += 3
    assert used == len(arrays), "every key must have found its layer"
    return used


@pytest.mark.parametrize("method", ["lora", "singlora", "symlora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reader_of_a_dozen_lines_gets_the_adapter(family, method, tmp_path):
    base = adapted(family, method)
    write_lora(collect(base.components(), metadata={"family": family}), tmp_path / "x.safetensors", "kohya")
    fresh = tiny_base(family)
    assert add_kohya(fresh, tmp_path / "x.safetensors") >= 3 * 100
    assert distance(base_answers(fresh), base_answers(base)) < 1e-5


@pytest.mark.slow  # importing lycoris takes most of it
@pytest.mark.parametrize("family", FAMILIES)
def test_lycoris_gets_the_adapter(family, tmp_path):
    lycoris = pytest.importorskip("lycoris.modules", reason="lycoris-lora is not installed")
    base = adapted(family, "symlora")
    write_lora(collect(base.components(), metadata={"family": family}), tmp_path / "x.safetensors", "kohya")
    weights = load_file(tmp_path / "x.safetensors")
    fresh = tiny_base(family)
    merged = 0
    for component, model in fresh.components().items():
        for name, layer in list(model.named_modules()):
            if not isinstance(layer, nn.Linear):
                continue
            lora_name = kohyas_name(family, component, model, name)
            if f"{lora_name}.alpha" in weights:
                module = lycoris.make_module(*lycoris.get_module(weights, lora_name), lora_name, layer)
                module.merge_to(1.0)
                merged += 1
    assert merged == len(weights) // 3
    assert distance(base_answers(fresh), base_answers(base)) < 1e-5
