"""Bases from one .safetensors file in the original layout.

Nothing is fetched: the configs follow from the shapes, and CLIP's tokenizer comes with this package.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from symdream.diffusion.architecture import family_of_file
from symdream.diffusion.base import SAMPLING_DEFAULTS, Base
from symdream.diffusion.clip_tokenizer import END, clip_tokenizer
from symdream.diffusion.clip_weights import build_text_encoder, openai_weights, openclip_weights
from symdream.diffusion.fitting import weights_misfit
from symdream.diffusion.hashes import file_sha256
from symdream.diffusion.headers import read_header
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.diffusion.original_layout import RESOLUTION, unet_config, vae_config
from symdream.diffusion.prediction import ZERO_SNR_MARKER, single_file_prediction
from symdream.diffusion.quiet import silence
from symdream.errors import RequestError, WorkError

# What fills up a text, for each text encoder: the end of the text for OpenAI's CLIP, id 0 for OpenCLIP's.
PAD_TOKENS = {"sd1": (END,), "sd2": ("!",), "sdxl": (END, "!")}
Part = tuple[nn.Module, Mapping[str, Tensor]]  # a model, and the weights that it is to hold under its own names


def check_single_file(path: Path) -> str:
    """The family of a checkpoint that can be loaded, told from its header alone.

    Raises: RequestError as `load_single_file` does.
    """
    shapes = read_header(path).shapes
    family = family_of_file(shapes, str(path))
    with torch.device("meta"):
        _load_models({name: torch.empty(shape) for name, shape in shapes.items()}, family, path)
    return family


def load_single_file(path: Path, name: str, dtype: torch.dtype) -> Base:
    """Load an SD 1.x, SD 2.x or SDXL checkpoint file.

    Raises: RequestError if the file is no such checkpoint or its weights do not fit, WorkError if it cannot be read.
    """
    header = read_header(path)
    family = family_of_file(header.shapes, str(path))
    try:
        checkpoint = load_file(path)
    except SafetensorError as error:
        raise WorkError(f"{path.name} cannot be read: {error}.", where=str(path)) from error
    unet, vae, *text_encoders = _load_models(checkpoint, family, path)
    for module in (unet, vae, *text_encoders):
        torch.nn.Module.to(module, dtype=dtype)
    prediction_type = single_file_prediction(header, family, unet)
    base = Base(
        name=name,
        identity=f"file:{path.name}",
        family=family,
        unet=unet,
        vae=vae,
        text_encoders=text_encoders,
        tokenizers=[clip_tokenizer(pad_token) for pad_token in PAD_TOKENS[family]],
        scheduler=_scheduler(prediction_type),
        prediction_type=prediction_type,
        resolution=512 if family == "sd2" and prediction_type == "epsilon" else RESOLUTION[family],
        defaults=dict(SAMPLING_DEFAULTS),
        hasher=lambda: file_sha256(path),
    )
    # A noise prediction says nothing of the picture where there is noise alone, so only v can be meant.
    if ZERO_SNR_MARKER in header.shapes and prediction_type == "v_prediction":
        use_zero_terminal_snr(base)
    return base


def _load_models(checkpoint: Mapping[str, Tensor], family: str, path: Path) -> list[nn.Module]:
    """UNet, VAE and text encoders, in eval mode. With a checkpoint on the meta device they are only tried.

    Raises: RequestError if the weights of one do not fit.
    """
    models = []
    for part, build in _builders(checkpoint, family).items():
        try:
            with silence():
                model, weights = build()
            problem = weights_misfit(model, {name: tuple(weight.shape) for name, weight in weights.items()})
            if not problem:
                model.load_state_dict(weights, strict=False, assign=True)
        except KeyError as error:
            problem = f"lacks {error.args[0]}"
        except (ValueError, RuntimeError, IndexError) as error:
            problem = f"does not fit: {error}"
        if problem:
            raise RequestError(
                f"The {part} in {path.name} {problem}.",
                where=str(path),
                fix="get the file again (it is not whole, or was put together wrongly), or choose another base",
            )
        models.append(model.eval())
    return models


def _builders(checkpoint: Mapping[str, Tensor], family: str) -> dict[str, Callable[[], Part]]:
    """What builds each part."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    shapes = {name: tuple(tensor.shape) for name, tensor in checkpoint.items()}

    def diffusers_part(model_class: type, config: dict, convert: Callable) -> Part:
        with torch.device("meta"):  # no random start: every weight is assigned
            model = model_class.from_config(config)
        # The conversion has None for some of those that are not there.
        return model, {name: weight for name, weight in convert(checkpoint, config).items() if weight is not None}

    def openai_part(prefix: str) -> Part:
        return build_text_encoder(openai_weights(checkpoint, prefix), openclip=False)

    def sd2_text() -> Part:
        weights, _ = openclip_weights(checkpoint, "cond_stage_model.model.")
        return build_text_encoder(weights, openclip=True, drop_last=True)

    def sdxl_text_2() -> Part:
        weights, projection = openclip_weights(checkpoint, "conditioner.embedders.1.model.")
        if projection is None:
            raise KeyError("text_projection")
        return build_text_encoder(weights, openclip=True, projection=projection)

    text = {
        "sd1": {"text_encoder": lambda: openai_part("cond_stage_model.transformer.")},
        "sd2": {"text_encoder": sd2_text},
        "sdxl": {
            "text_encoder": lambda: openai_part("conditioner.embedders.0.transformer."),
            "text_encoder_2": sdxl_text_2,
        },
    }
    return {
        "unet": lambda: diffusers_part(UNet2DConditionModel, unet_config(shapes, family), convert_ldm_unet_checkpoint),
        "vae": lambda: diffusers_part(AutoencoderKL, vae_config(shapes, family), convert_ldm_vae_checkpoint),
        **text[family],
    }


def _scheduler(prediction_type: str):
    """The noise schedule that SD 1.x, 2.x and SDXL were all trained with."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
