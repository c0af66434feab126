"""Bases from one .safetensors file in the original layout.

Nothing is fetched: the configs follow from the shapes, and CLIP's tokenizer comes with this package.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from symdream.diffusion.architecture import family_of_file
from symdream.diffusion.base import SAMPLING_DEFAULTS, Base
from symdream.diffusion.clip_tokenizer import clip_tokenizer
from symdream.diffusion.clip_weights import build_text_encoder, openai_weights, openclip_weights
from symdream.diffusion.hashes import file_sha256
from symdream.diffusion.headers import read_header
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.diffusion.original_layout import RESOLUTION, unet_config, vae_config
from symdream.diffusion.prediction import ZERO_SNR_MARKER, single_file_prediction
from symdream.diffusion.quiet import quiet_loading
from symdream.errors import WorkError


def load_single_file(path: Path, name: str, dtype: torch.dtype) -> Base:
    """Load an SD 1.x, SD 2.x or SDXL checkpoint file.

    Raises: RequestError if the file is no such checkpoint, WorkError if its weights do not fit.
    """
    header = read_header(path)
    family = family_of_file(header.shapes, str(path))
    try:
        checkpoint = load_file(path)
        text_encoders, tokenizers = _text_parts(checkpoint, family)
    except (SafetensorError, KeyError) as error:
        raise WorkError(f"{path.name} cannot be read: {error}.", where=str(path)) from error
    unet, vae = _diffusers_parts(checkpoint, header.shapes, family, path)
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
        tokenizers=tokenizers,
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


def _text_parts(checkpoint, family: str) -> tuple[list, list]:
    if family == "sd1":
        weights = openai_weights(checkpoint, "cond_stage_model.transformer.")
        return [build_text_encoder(weights, openclip=False)], [clip_tokenizer()]
    if family == "sd2":
        weights, _ = openclip_weights(checkpoint, "cond_stage_model.model.")
        return [build_text_encoder(weights, openclip=True, drop_last=True)], [clip_tokenizer(pad_token="!")]
    first = openai_weights(checkpoint, "conditioner.embedders.0.transformer.")
    second, projection = openclip_weights(checkpoint, "conditioner.embedders.1.model.")
    if projection is None:
        raise KeyError("conditioner.embedders.1.model.text_projection")
    encoders = [
        build_text_encoder(first, openclip=False),
        build_text_encoder(second, openclip=True, projection=projection),
    ]
    return encoders, [clip_tokenizer(), clip_tokenizer(pad_token="!")]


def _diffusers_parts(checkpoint, shapes, family: str, path: Path):
    """UNet and VAE through diffusers' own conversion, with our configs in a folder that it reads."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    parts = {"unet": (UNet2DConditionModel, unet_config), "vae": (AutoencoderKL, vae_config)}
    built = []
    with TemporaryDirectory() as folder, quiet_loading():
        for part, (model_class, make_config) in parts.items():
            try:
                (Path(folder) / part).mkdir()
                (Path(folder) / part / "config.json").write_text(json.dumps(make_config(shapes, family)))
                # A copy of the dict: diffusers' conversion takes entries out of it.
                model = model_class.from_single_file(
                    dict(checkpoint), config=folder, subfolder=part, local_files_only=True
                )
            except (KeyError, ValueError, RuntimeError, IndexError) as error:
                raise WorkError(f"The {part} in {path.name} does not fit: {error}.", where=str(path)) from error
            if missing := [key for key, value in model.state_dict().items() if value.is_meta]:
                raise WorkError(f"{path.name} lacks {len(missing)} weights of its {part}, {missing[0]} first.")
            built.append(model.eval())
    return built


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
