"""Writes an adapter as plain LoRA: one file in diffusers' or kohya's layout, or PEFT's folder per component."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from symdream.diffusion.base import Base
from symdream.errors import RequestError, WorkError
from symdream.files import write_atomically
from symdream.interop.collect import collect
from symdream.interop.grouping import WEIGHTS
from symdream.interop.keys import PEFT_PREFIX, Place, kohya_name, without_text_model
from symdream.interop.layers import Adapter, PlainLayer, check_one_kind
from symdream.interop.metadata import (
    OURS,
    PEFT_METADATA,
    family_of,
    hash_texts,
    kohya_texts,
    modelspec_texts,
    most_common,
    peft_config,
    peft_text,
)
from symdream.interop.spectrum import relative_error
from symdream.interop.strength import PEFT_CONFIG
from symdream.replacing import refuse_existing
from symdream.tensor_file import save_tensors
from symdream.whole_folder import write_folder


@dataclass(frozen=True)
class Report:
    """What was written. `error` is the relative error of the updates by rounding to the file's number format."""

    path: Path
    layout: str
    dtype: str
    layers: int
    parameters: int
    bytes: int
    error: float


def write_diffusers_lora(
    base: Base, path: Path, metadata: Mapping[str, Any], *, dtype: torch.dtype = torch.float32, name: str = "default"
) -> Report:
    """Write the adapter attached to `base` as one LoRA (DoRA) file that `pipe.load_lora_weights` reads.

    SingLoRA and SymLoRA become LoRA of the same rank in closed form; alpha and u are folded in; whatever weight was
    set for the moment is left out. `metadata` is kept under the key `symdream`.
    Raises: RequestError if there is no adapter, WorkError if it is not finite or cannot be written.
    """
    described = {**base_facts(base), **metadata}
    return write_lora(collect(base.components(), name, described), path, "diffusers", dtype=dtype)


def base_facts(base: Base) -> dict[str, Any]:
    """What exported files tell about the base beside its identity and hash."""
    return {"family": base.family, "prediction_type": base.prediction_type, "resolution": base.resolution}


def write_lora(
    adapter: Adapter, path: Path, layout: str, *, dtype: torch.dtype = torch.float32, peft_metadata: bool = True
) -> Report:
    """Write an adapter as LoRA (DoRA) in `layout`: "diffusers", "kohya" or "peft" (a folder).

    Whole or not at all: what was at `path` stays until the new one is complete. `peft_metadata` False leaves PEFT's
    configuration out of a diffusers file: it names every layer up to three times (17 KB on sprite), and diffusers since
    0.40 takes the same ranks, of scale 1, from the tensors.
    Raises: RequestError for a DoRA or a layer that SDXL does not have in kohya's layout, or a folder that is no PEFT
    adapter, WorkError if the numbers are not finite or the disk is full.
    """
    path = Path(path)
    plain = replace(adapter.plain(), metadata={k: v for k, v in adapter.metadata.items() if k != "shapes"})
    stored = stored_form(plain, layout, dtype)
    size = _write_peft(stored, path) if layout == "peft" else _write_file(stored, path, layout, peft_metadata)
    return Report(
        path=path,
        layout=layout,
        dtype=_short(dtype),
        layers=len(stored.layers),
        parameters=sum(t.numel() for layer in stored.layers.values() for t in layer.tensors()),
        bytes=size,
        error=relative_error(plain.layers, stored.layers),
    )


def stored_form(adapter: Adapter, layout: str, dtype: torch.dtype) -> Adapter:
    """A plain adapter as `layout` keeps it, in `dtype`. Raises: as write_lora does."""
    if layout == "kohya" and adapter.is_dora:
        # Seen in their sources: LyCORIS takes the norms of the rows of W0 + BA, as DoRA and PEFT do; ComfyUI those of
        # the rows of W0 alone; A1111 those of the columns of W0 + BA.
        raise RequestError(
            "A DoRA cannot be written in kohya's layout: A1111, ComfyUI and LyCORIS do not agree on the norm that "
            "belongs to `dora_scale`, so its pictures would depend on the tool.",
            fix="use --to diffusers (exact in diffusers), or --to merged (exact everywhere)",
        )
    for component in adapter.components:
        check_one_kind(adapter.of(component).values(), adapter.name)
    # Kohya's files have an alpha to keep the scale in; the others have none that every reader honours.
    kept = with_one_alpha(adapter.layers) if layout == "kohya" else _each(adapter.layers, PlainLayer.folded)
    wanted = replace(adapter, layers=kept)
    stored = replace(wanted, layers=_each(wanted.layers, lambda layer: in_format(layer, dtype)))
    for place, layer in stored.layers.items():
        if not all(bool(torch.isfinite(t).all()) for t in layer.tensors()):
            raise WorkError(f"The update of {place} is not finite in {_short(dtype)}; nothing was written.")
    return stored


def with_one_alpha(layers: Mapping[Place, PlainLayer]) -> Mapping[Place, PlainLayer]:
    """The same updates with one alpha (scale · rank) for all layers: what others have besides goes into their B.

    diffusers 0.42 reads a rank for each layer of kohya's files, but gives all layers the alpha that most have
    (get_peft_kwargs: the names in its alpha_pattern match none).
    """
    alphas = [layer.scale * layer.rank for layer in layers.values()]
    if len(set(alphas)) < 2:
        return layers
    alpha = most_common(a for a in alphas if a)  # by which is divided

    def at_alpha(layer: PlainLayer) -> PlainLayer:
        scale = alpha / layer.rank
        if layer.scale == scale:
            return layer
        layer = layer.wide()
        return replace(layer, B=layer.B * (layer.scale / scale), scale=scale)

    return _each(layers, at_alpha)


def in_format(layer: PlainLayer, dtype: torch.dtype) -> PlainLayer:
    """The layer's tensors in `dtype`.

    For fp16 (5 digits of exponent) the magnitudes are first shared evenly between B and A, rank by rank, unless the
    tensors are exact in it as they are.
    """
    cast = layer.to(dtype)
    exact = all(torch.equal(c.to(t.dtype), t) for c, t in zip(cast.tensors(), layer.tensors(), strict=True))
    if dtype != torch.float16 or exact:
        return cast
    layer = layer.wide()
    a, b = layer.A.flatten(1).norm(dim=1), layer.B.flatten(1).norm(dim=0)
    root = torch.where((a > 0) & (b > 0), (b / a).sqrt(), 1.0)
    ones = (1,) * (layer.A.ndim - 2)
    return replace(layer, A=layer.A * root.view(-1, 1, *ones), B=layer.B / root.view(1, -1, *ones)).to(dtype)


def file_tensors(layers: Mapping[Place, PlainLayer], layout: str, *, sdxl: bool = False) -> dict[str, Tensor]:
    """The tensors by the layout's key names ("diffusers" or "kohya")."""
    tensors: dict[str, Tensor] = {}
    for place, layer in layers.items():
        if layout == "kohya":
            name = kohya_name(place, sdxl)
            tensors[f"{name}.lora_down.weight"] = layer.A
            tensors[f"{name}.lora_up.weight"] = layer.B
            alpha = torch.tensor(layer.scale * layer.rank)
            exact = torch.equal(alpha.to(layer.A.dtype).float(), alpha)
            tensors[f"{name}.alpha"] = alpha.to(layer.A.dtype) if exact else alpha
        else:
            tensors[f"{place}.lora_A.weight"] = layer.A
            tensors[f"{place}.lora_B.weight"] = layer.B
            if layer.magnitude is not None:
                tensors[f"{place}.lora_magnitude_vector.weight"] = layer.magnitude
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def _file_contents(
    adapter: Adapter, layout: str, title: str, peft_metadata: bool
) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = file_tensors(adapter.layers, layout, sdxl=family_of(adapter.layers, adapter.metadata) == "sdxl")
    texts = {"format": "pt", OURS: json.dumps(adapter.metadata, ensure_ascii=False)}
    texts |= header_texts(adapter, tensors, layout, title)
    if layout == "diffusers" and peft_metadata:
        texts[PEFT_METADATA] = peft_text(adapter)
    return tensors, texts


def _write_file(adapter: Adapter, path: Path, layout: str, peft_metadata: bool) -> int:
    tensors, texts = _file_contents(adapter, layout, path.stem, peft_metadata)
    write_atomically(path, lambda temporary: save_tensors(tensors, temporary, texts))
    return path.stat().st_size


def file_bytes(adapter: Adapter, layout: str, dtype: torch.dtype, title: str) -> int:
    """How large the file of this adapter would be, PEFT's metadata left out; for "peft", the files of the folder."""
    stored = stored_form(adapter.plain(), layout, dtype)
    if layout == "peft":
        parts = (_peft_contents(stored, component) for component in stored.components)
        return sum(len(save(tensors, metadata=texts)) + len(config) for config, tensors, texts in parts)
    tensors, texts = _file_contents(stored, layout, title, False)
    return len(save(tensors, metadata=texts))


def header_texts(adapter: Adapter, tensors: Mapping[str, Tensor], layout: str, title: str) -> dict[str, str]:
    """The `ss_*`, `sshs_*` and `modelspec.*` texts of a file of these tensors."""
    texts = kohya_texts(adapter, title)
    hashes = hash_texts(save(dict(tensors), metadata=texts))
    date = datetime.date.today().isoformat()
    return texts | hashes | modelspec_texts(adapter, layout, title, date, hashes["sshs_model_hash"])


def _peft_contents(adapter: Adapter, component: str) -> tuple[bytes, dict[str, Tensor], dict[str, str]]:
    """Of a component: adapter_config.json, as PEFT writes it, and what adapter_model.safetensors holds."""
    from peft import LoraConfig

    layers = adapter.of(component)
    config = LoraConfig(**peft_config(layers), inference_mode=True).to_dict()
    # PEFT keeps the names of layers as a set, which has no order.
    text = json.dumps(config, indent=2, sort_keys=True, default=sorted)
    tensors = file_tensors({Place(component, m): x for m, x in layers.items()}, "diffusers")
    tensors = {peft_key(key, component): t for key, t in tensors.items()}
    texts = {"format": "pt", OURS: json.dumps(adapter.metadata, ensure_ascii=False)}
    return text.encode(), tensors, texts


def _write_peft(adapter: Adapter, folder: Path) -> int:
    """folder/COMPONENT/ with adapter_config.json and adapter_model.safetensors, as PeftModel.from_pretrained reads."""
    refuse_existing(folder, True, "peft")

    def write(new: Path) -> None:
        for component in adapter.components:
            config, tensors, texts = _peft_contents(adapter, component)
            target = new / component
            target.mkdir()
            (target / PEFT_CONFIG).write_bytes(config)
            save_tensors(tensors, target / WEIGHTS, texts)

    write_folder(folder, write)
    return sum(file.stat().st_size for file in folder.glob("*/*"))


def peft_key(key: str, component: str) -> str:
    """PEFT's own key for one of diffusers', by the model's own names, since PEFT renames nothing.

    transformers 5.6 took `text_model` out of CLIPTextModel, but not out of CLIPTextModelWithProjection (SDXL's second).
    """
    module = key.removeprefix(component + ".")
    module = without_text_model(module) if component == "text_encoder" else module
    return PEFT_PREFIX + module.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _each(layers: Mapping[Place, PlainLayer], change) -> dict[Place, PlainLayer]:
    return {place: change(layer) for place, layer in layers.items()}


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, str(dtype))
