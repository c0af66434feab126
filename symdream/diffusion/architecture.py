"""Which architecture a checkpoint is, and the refusal of those that this program cannot adapt.

Two places tell: the configs of a diffusers folder, and the tensor names and shapes of a single file in the
original layout. Families: "sd1" (SD 1.x), "sd2" (SD 2.x: linear projections, OpenCLIP), "sdxl".
"""

from __future__ import annotations

from collections.abc import Mapping

from symdream.diffusion.clip_tokenizer import VOCABULARY
from symdream.errors import RequestError

PIPELINES = (
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusionXLImg2ImgPipeline",
)
WAY_OUT = "use a text-to-image SD 1.x, SD 2.x or SDXL base, such as sprite or sd15"
UNET = "model.diffusion_model."
FIRST_CONVOLUTION = UNET + "input_blocks.0.0.weight"

# What other files look like inside: a part of a key, and what that tells.
FOREIGN_KEYS = (
    ("double_blocks.", "a Flux transformer"),
    ("joint_blocks.", "a Stable Diffusion 3 transformer"),
    ("control_model.", "a ControlNet"),
    ("lora_", "a LoRA adapter, not a base"),
    ("singlora_", "a SingLoRA adapter, not a base"),
    ("symlora_", "a SymLoRA adapter, not a base"),
    ("down_blocks.", "one component in diffusers' layout; give the folder that holds model_index.json"),
)


def wrong_architecture(found: str, where: str) -> RequestError:
    return RequestError(f"This base cannot be adapted: it is {found}.", where=where, fix=WAY_OUT)


def family_of_folder(model_index: Mapping, unet_config: Mapping, where: str) -> str:
    """The family of a diffusers folder, from its model_index.json and its UNet's config.

    Raises: RequestError if the pipeline or the UNet is of another kind, inpainting included.
    """
    pipeline = model_index.get("_class_name")
    channels = unet_config.get("in_channels", 4)
    if channels == 9:
        raise wrong_architecture("an inpainting model (its UNet takes 9 channels, not 4)", where)
    if pipeline not in PIPELINES:
        raise wrong_architecture(f"a {pipeline}", where)
    if channels != 4 or unet_config.get("_class_name") != "UNet2DConditionModel":
        kind = unet_config.get("_class_name", "UNet of unknown kind")
        raise wrong_architecture(f"a {kind} that takes {channels} channels, not 4", where)
    if unet_config.get("addition_embed_type") == "text_time":
        if not any(model_index.get("text_encoder") or ()):
            raise wrong_architecture("the SDXL refiner, which has no first text encoder", where)
        return "sdxl"
    return "sd2" if unet_config.get("use_linear_projection") else "sd1"


def family_of_file(shapes: Mapping[str, tuple[int, ...]], where: str) -> str:
    """The family of a single file in the original layout, from its tensors' names and shapes.

    Raises: RequestError if it is something else, a part is missing, or its text encoder needs another tokenizer than
    CLIP's.
    """
    if FIRST_CONVOLUTION not in shapes:
        for part, kind in FOREIGN_KEYS:
            if any(part in key for key in shapes):
                raise wrong_architecture(kind, where)
        raise wrong_architecture(f"not a Stable Diffusion checkpoint ({len(shapes)} tensors, no UNet)", where)
    channels = shapes[FIRST_CONVOLUTION][1]
    if channels == 9:
        raise wrong_architecture("an inpainting model (its UNet takes 9 channels, not 4)", where)
    if channels != 4:
        raise wrong_architecture(f"a UNet that takes {channels} channels, not 4", where)
    family = _family_by_text_encoder(shapes, where)
    if not any(key.startswith("first_stage_model.") for key in shapes):
        raise RequestError(
            "This checkpoint has no VAE inside, so pictures cannot be encoded.",
            where=where,
            fix="use an edition of the checkpoint with its VAE, or a diffusers folder",
        )
    _check_vocabulary(shapes, where)
    return family


def _family_by_text_encoder(shapes: Mapping[str, tuple[int, ...]], where: str) -> str:
    def has(prefix: str) -> bool:
        return any(key.startswith(prefix) for key in shapes)

    if has("conditioner.embedders.1.model."):
        return "sdxl"
    if has("conditioner.embedders.0.model."):
        raise wrong_architecture("the SDXL refiner, which has no first text encoder", where)
    if has("cond_stage_model.model."):
        return "sd2"
    if has("cond_stage_model.transformer."):
        return "sd1"
    raise RequestError(
        "This checkpoint has no text encoder inside.", where=where, fix="use a full checkpoint or a diffusers folder"
    )


def _check_vocabulary(shapes: Mapping[str, tuple[int, ...]], where: str) -> None:
    """The file carries no tokenizer, so its embedding must be that of CLIP's."""
    for key, shape in shapes.items():
        if key.endswith("token_embedding.weight") and shape[0] != VOCABULARY:
            raise RequestError(
                f"This checkpoint was trained with a tokenizer of {shape[0]:,} tokens, which the file does not carry "
                f"(CLIP's has {VOCABULARY:,}).",
                where=f"{where}, {key}",
                fix="give the model as a diffusers folder, which holds its tokenizer",
            )
