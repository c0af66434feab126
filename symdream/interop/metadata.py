"""The texts in an exported file's header: ours, and those that A1111, ComfyUI, kohya's tools and diffusers read."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from symdream.interop.keys import Place, without_text_model
from symdream.ui import printable

if TYPE_CHECKING:
    from symdream.interop.header import AdapterHeader

OURS = "symdream"
RECOMMENDED = "recommended_weight"
PEFT_METADATA = "lora_adapter_metadata"  # diffusers' name for it
STABILITY_AI = "https://github.com/Stability-AI/generative-models"  # modelspec's implementation of original names

# What we write under OURS and read again, by its type; `base` holds two texts, or is one.
TYPES = {
    **dict.fromkeys(("trigger", "class_noun", "family", "prediction_type"), str),
    "prompts": list,
    "resolution": int,
    "base": (str, dict),
}

# sd-scripts' words for the families.
BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


def our_metadata(header: AdapterHeader) -> dict[str, Any]:
    """The metadata under OURS, {} if there are none. What is not of the type that we write is as if it were not told:
    somebody else wrote it."""
    told = header.json(OURS)
    try:
        ours = {key: _plain(value) for key, value in told.items() if isinstance(value, TYPES.get(key, object))}
    except RecursionError:
        return {}
    if isinstance(base := ours.get("base"), dict):
        ours["base"] = {k: v for k, v in base.items() if k not in ("identity", "hash") or isinstance(v, str)}
    return ours


def _plain(value: Any) -> Any:
    """`value` with its texts `printable`: they come into prompts, messages and file names."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return {key: _plain(part) for key, part in value.items()} if isinstance(value, dict) else value


def family_of(layers: Mapping[Place, Any], metadata: Mapping[str, Any]) -> str:
    """The family (sd1, sd2 or sdxl): as the metadata says, else by the layers' names and widths.

    Only SDXL has a second text encoder and transformer blocks in a row; only SD 2.x reads text states 1024 wide.
    """
    if metadata.get("family") in BASE_VERSIONS:
        return metadata["family"]
    if any(p.component == "text_encoder_2" or ".transformer_blocks.1." in p.module for p in layers):
        return "sdxl"
    text_inputs = {
        layer.A.shape[1]
        for place, layer in layers.items()
        if place.module.endswith(("attn2.to_k", "attn2.to_v", "q_proj", "k_proj", "v_proj"))
    }
    return "sd2" if text_inputs == {1024} else "sd1"


def recommended_weight(metadata: Mapping[str, Any]) -> float:
    """The weight that training found best for an adapter (symdream.training.selection), 1 where none was looked for."""
    weight = metadata.get(RECOMMENDED)
    return float(weight) if isinstance(weight, int | float) and 0 < weight <= sys.float_info.max else 1.0


def trained_base(metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """`identity` and `hash` of the base that an adapter was trained on, as far as told; a bare name is its identity."""
    told = metadata.get("base")
    if isinstance(told, str):
        return {"identity": told}
    return told if isinstance(told, Mapping) else {}


def foreign_facts(texts: Mapping[str, str]) -> dict[str, Any]:
    """What the header of another program's file tells of the adapter, in our metadata's words.

    Not its base: what such files call it is a file of somebody's, which cannot be opened by that name.
    """
    version = texts.get("ss_base_model_version", "")
    families = {name: family for family, name in BASE_VERSIONS.items()}
    family = next((f for name, f in families.items() if version.startswith(name.split("_base")[0])), None)
    predictions = {"v": "v_prediction", "epsilon": "epsilon"}
    size = re.fullmatch(r"(\d+)x\1", texts.get("modelspec.resolution", ""))
    facts = {
        "trigger": texts.get("modelspec.trigger_phrase"),
        "licence": texts.get("modelspec.license"),
        "family": family or ("sd2" if texts.get("ss_v2") == "True" else None),
        "prediction_type": predictions.get(texts.get("modelspec.prediction_type", "")),
        "resolution": int(size[1]) if size else None,
    }
    return {name: fact for name, fact in facts.items() if fact}


def architecture(family: str, prediction_type: str | None) -> str:
    """modelspec's name for what the adapter belongs to (github.com/Stability-AI/ModelSpec)."""
    names = {
        "sd1": "stable-diffusion-v1",
        "sd2": "stable-diffusion-v2-768-v" if prediction_type == "v_prediction" else "stable-diffusion-v2-512",
        "sdxl": "stable-diffusion-xl-v1-base",
    }
    return names[family]


def most_common(values) -> Any:
    return Counter(values).most_common(1)[0][0]


def kohya_texts(adapter, title: str) -> dict[str, str]:
    """The `ss_*` keys that tools show: trigger words, base, rank, alpha, resolution."""
    ours, family = adapter.metadata, family_of(adapter.layers, adapter.metadata)
    ranks = [layer.rank for layer in adapter.layers.values()]
    rank = most_common(ranks)
    alphas = [layer.rank * layer.scale for layer in adapter.layers.values()]
    texts = {
        "ss_output_name": title,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank) if len(set(ranks)) == 1 else "Dynamic",
        "ss_network_alpha": f"{most_common(alphas):g}" if len(set(alphas)) == 1 else "Dynamic",
        "ss_base_model_version": BASE_VERSIONS[family],
        "ss_v2": str(family == "sd2"),
        "ss_training_comment": f"symdream {ours.get('method', adapter.layout)}",
    }
    base = trained_base(ours)
    given = {
        "ss_sd_model_name": base.get("identity"),
        "ss_new_sd_model_hash": base.get("hash"),
        "ss_resolution": (size := ours.get("resolution")) and f"({size}, {size})",
        "ss_steps": ours.get("step"),
        "ss_max_train_steps": ours.get("steps"),
        "ss_seed": ours.get("seed"),
    }
    texts |= {key: str(value) for key, value in given.items() if value is not None}
    if subject := subject_words(ours):
        # One caption for every image; the tools offer these words as the ones to write.
        texts["ss_tag_frequency"] = json.dumps({"symdream": {subject: 1}}, ensure_ascii=False)
    return texts


def modelspec_texts(adapter, layout: str, title: str, date: str, data_hash: str) -> dict[str, str]:
    """modelspec 1.0.1 (github.com/Stability-AI/ModelSpec) as sd-scripts fills it for a LoRA."""
    ours, family = adapter.metadata, family_of(adapter.layers, adapter.metadata)
    original = layout == "kohya" and family == "sdxl"  # the names of the UNet's layers
    prediction = ours.get("prediction_type")
    texts = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture(family, prediction) + "/lora",
        "modelspec.implementation": STABILITY_AI if original else "diffusers",
        "modelspec.title": title,
        "modelspec.date": date,
        "modelspec.hash_sha256": "0x" + data_hash,
    }
    if prediction:
        texts["modelspec.prediction_type"] = "v" if prediction == "v_prediction" else "epsilon"
    licence = ours.get("licence")
    if licence and licence != "unknown":  # which our older files hold
        texts["modelspec.license"] = str(licence)
    if size := ours.get("resolution"):
        texts["modelspec.resolution"] = f"{size}x{size}"
    if subject := subject_words(ours):
        texts["modelspec.trigger_phrase"] = subject
        texts["modelspec.usage_hint"] = f'Write "{subject}" for the subject.'
    return texts


def subject_words(metadata: Mapping[str, Any]) -> str:
    """Trigger and class noun, "" if the metadata has none."""
    return " ".join(str(metadata[k]) for k in ("trigger", "class_noun") if metadata.get(k))


def peft_config(layers: Mapping[str, Any]) -> dict[str, Any]:
    """LoraConfig's arguments for one component's layers by module name, all of scale 1 (alpha = rank)."""
    ranks = {without_text_model(module): layer.rank for module, layer in layers.items()}
    rank = most_common(ranks.values())
    other = {module: r for module, r in sorted(ranks.items()) if r != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": other,
        "alpha_pattern": other,
        "target_modules": sorted(ranks),
        "use_dora": any(layer.magnitude is not None for layer in layers.values()),
    }


def peft_text(adapter) -> str:
    """What diffusers makes its LoraConfigs from: their arguments under `<component>.`"""
    flat = {f"{c}.{k}": v for c in adapter.components for k, v in peft_config(adapter.of(c)).items()}
    return json.dumps(flat, sort_keys=True)


def data_section(content: bytes) -> memoryview:
    """The tensors' bytes of a safetensors file."""
    return memoryview(content)[8 + int.from_bytes(content[:8], "little") :]


def hash_texts(content: bytes) -> dict[str, str]:
    """The hashes by which A1111 and kohya's tools know a LoRA, over a file whose only metadata are its `ss_*` keys.

    sshs_model_hash: sha256 of the tensors' bytes. sshs_legacy_hash: the first 8 digits of the sha256 of the
    64 KiB that follow the first MiB of the file, as the elder web UI computed it.
    """
    return {
        "sshs_model_hash": hashlib.sha256(data_section(content)).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8],
    }
