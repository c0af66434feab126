"""Names of adapter weights in the files of each tool, as pure string functions.

A layer is known by its place: (component, module), with diffusers' component names (unet, text_encoder,
text_encoder_2) and module names as in diffusers' UNet and in CLIP with its `text_model.` prefix.

    diffusers  unet.<module>.lora_A.weight            A1111's elder spelling .lora.down.weight is read too, and
               what a UNet saves by itself (save_lora_adapter, once save_attn_procs): the same without `unet.`
    peft       base_model.model.<module>.lora_A.weight, one folder for each component
    kohya      lora_unet_<module, . to _>.lora_down.weight, .lora_up.weight, .alpha; lora_te_
               SDXL: lora_unet_<the UNet's original name, . to _>, lora_te1_, lora_te2_
               read in all families: the UNet under its original names as well as under diffusers'
    comfyui    diffusion_model.<the UNet's original name>.lora_up.weight, text_encoders.clip_l.transformer.<module>
    native     as diffusers or peft, with singlora_A, or symlora_A and symlora_lambda
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from symdream.errors import RequestError
from symdream.interop.original_unet import SDXL, module_of, unet_name

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
TEXT_MODEL = "text_model."
UNET_PARTS = ("down_blocks.", "mid_block.", "up_blocks.")
PEFT_PREFIX = "base_model.model."

# What a tensor is to its layer.
DOWN, UP, ALPHA, MAGNITUDE, BIAS, SINGLORA_A, SYMLORA_A, LAMBDA = PARTS = (
    "down",
    "up",
    "alpha",
    "magnitude",
    "bias",
    "singlora_A",
    "symlora_A",
    "symlora_lambda",
)

# Ends of keys.
SUFFIXES = {
    ".lora_A.weight": DOWN,
    ".lora_B.weight": UP,
    ".lora_B.bias": BIAS,
    ".lora_down.weight": DOWN,
    ".lora_up.weight": UP,
    ".lora.down.weight": DOWN,
    ".lora.up.weight": UP,
    "_lora.down.weight": DOWN,
    "_lora.up.weight": UP,
    ".lora_linear_layer.down.weight": DOWN,
    ".lora_linear_layer.up.weight": UP,
    ".lora_magnitude_vector.weight": MAGNITUDE,
    ".lora_magnitude_vector": MAGNITUDE,
    ".dora_scale": MAGNITUDE,
    ".alpha": ALPHA,
    ".singlora_A": SINGLORA_A,
    ".symlora_A": SYMLORA_A,
    ".symlora_lambda": LAMBDA,
}

KOHYA_PREFIXES = {
    "lora_unet_": "unet",
    "lora_te_": "text_encoder",
    "lora_te1_": "text_encoder",
    "lora_te2_": "text_encoder_2",
}
# ComfyUI's own; clip_h is SD 2.x's text encoder.
COMFYUI_PREFIXES = {
    "diffusion_model.": "unet",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoders.clip_h.transformer.": "text_encoder",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
}

# Identifiers with an underscore inside; everything else in a kohya name is a dot.
# fmt: off
COMPOUNDS = (
    "down_blocks", "mid_block", "up_blocks", "transformer_blocks", "to_q", "to_k", "to_v", "to_out", "proj_in",
    "proj_out", "text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "text_projection",
    "time_emb_proj", "time_embedding", "add_embedding", "linear_1", "linear_2", "conv_shortcut", "conv_in",
    "conv_out",
    # of the UNet's original names
    "input_blocks", "middle_block", "output_blocks", "in_layers", "emb_layers", "out_layers", "skip_connection",
    "time_embed", "label_emb",
)
# fmt: on
COMPOUND = re.compile("|".join(rf"(?<![a-z]){c.replace('_', '[.]')}(?![a-z])" for c in COMPOUNDS))

# The layers that there are: a name in which something had to be read into it counts only if it leads to one of these.
UNET_LAYER = (
    r"((down|up)_blocks\.\d|mid_block)\.("
    r"resnets\.\d\.(conv1|conv2|conv_shortcut|time_emb_proj)|"
    r"attentions\.\d\.(proj_in|proj_out|"
    r"transformer_blocks\.\d+\.(attn[12]\.to_([qkv]|out\.0)|ff\.net\.(0\.proj|2))))|"
    r"down_blocks\.\d\.downsamplers\.0\.conv|up_blocks\.\d\.upsamplers\.0\.conv|"
    r"(time|add)_embedding\.linear_[12]|conv_in|conv_out"
)
TEXT_LAYER = r"text_model\.encoder\.layers\.\d+\.(self_attn\.([qkv]|out)_proj|mlp\.fc[12])|text_projection"


@dataclass(frozen=True)
class Place:
    """Which layer a weight belongs to."""

    component: str
    module: str

    def __str__(self) -> str:
        return f"{self.component}.{self.module}"


@dataclass(frozen=True)
class Key:
    """A key understood: its layout, its layer (None as long as a PEFT file does not tell the component), its part."""

    layout: str
    component: str | None
    module: str
    part: str


@lru_cache(2**15)  # adapters of one kind have the same keys: without it the app's list of 400 files takes 12 s longer
def parse_key(key: str) -> Key | None:
    """What a key of any of the layouts names; None if it is none of an adapter of linear layers and convolutions."""
    # PEFT's own state dicts have the adapter's name inside: lora_A.default_0.weight.
    key = re.sub(r"(\.lora_[AB])\.[^.]+(?=\.weight$)", r"\1", key)
    suffix = next((s for s in SUFFIXES if key.endswith(s)), None)
    if suffix is None:
        return None
    stem, part = key.removesuffix(suffix), SUFFIXES[suffix]
    native = part in (SINGLORA_A, SYMLORA_A, LAMBDA)
    for prefix, component in KOHYA_PREFIXES.items():
        if stem.startswith(prefix):
            return _key_of_layer("kohya", component, kohya_module(stem.removeprefix(prefix)), part)
    for prefix, component in COMFYUI_PREFIXES.items():
        if stem.startswith(prefix):
            module = stem.removeprefix(prefix)
            return _key_of_layer("comfyui", component, _from_original(module), part)
    if stem.startswith(PEFT_PREFIX):
        module = stem.removeprefix(PEFT_PREFIX)
        return Key("native" if native else "peft", None, with_text_model(module), part)
    for component in COMPONENTS:
        if stem.startswith(component + "."):
            module = _modern(stem.removeprefix(component + "."), component)
            return Key("native" if native else "diffusers", component, with_text_model(module), part)
    if stem.startswith(UNET_PARTS):
        return Key("native" if native else "diffusers", "unet", _modern(stem, "unet"), part)
    return None


def _key_of_layer(layout: str, component: str, module: str, part: str) -> Key | None:
    known = re.fullmatch(UNET_LAYER if component == "unet" else TEXT_LAYER, module)
    return Key(layout, component, module, part) if known else None


def _modern(module: str, component: str) -> str:
    """From diffusers' elder names (attn1.processor.to_out_lora, self_attn.to_q_lora) without their `_lora`."""
    module = module.replace(".processor.", ".")
    if component == "unet":
        return module + ".0" if module.endswith(".to_out") else module
    return re.sub(r"\.to_(q|k|v|out)$", r".\1_proj", module)


def with_text_model(module: str) -> str:
    """CLIP's module name with `text_model.`, which transformers 5.6 dropped from models and files keep."""
    return TEXT_MODEL + module if module.startswith("encoder.layers.") else module


def without_text_model(module: str) -> str:
    """CLIP's module name as transformers 5.6 and later have it; PEFT finds it in elder models by its end."""
    return module.removeprefix(TEXT_MODEL)


def kohya_name(place: Place, sdxl: bool) -> str:
    """The part of kohya's keys before the first dot.

    sd-scripts trains SDXL in Stability AI's own UNet, and looks for these names there; SD 1.x and 2.x in diffusers'.
    Raises: RequestError for what is no layer of SDXL's UNet.
    """
    prefix = {
        "unet": "lora_unet_",
        "text_encoder": "lora_te1_" if sdxl else "lora_te_",
        "text_encoder_2": "lora_te2_",
    }[place.component]
    module = _sdxl_name(place) if sdxl and place.component == "unet" else place.module
    return prefix + module.replace(".", "_")


def _sdxl_name(place: Place) -> str:
    known = re.fullmatch(UNET_LAYER, place.module) and not re.match(r"(down|up)_blocks\.[3-9]", place.module)
    original = unet_name(place.module, SDXL) if known else None
    if original is None or module_of(original) != place.module:
        raise RequestError(
            f"{place} is no layer of SDXL's UNet, so kohya's layout has no name for it.", fix="use --to diffusers"
        )
    return original


def kohya_module(name: str) -> str:
    """diffusers' module name from a kohya name without its prefix: the inverse of `. to _` on known identifiers.

    The UNet's original names become diffusers' as well.
    """
    return _from_original(COMPOUND.sub(lambda m: m[0].replace(".", "_"), name.replace("_", ".")))


def _from_original(module: str) -> str:
    return module_of(module) or module
