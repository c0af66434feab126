"""The base that comes with the package, 'sprite': where it lies and how its parts are built.

Its folders are diffusers' and transformers' own, except that the weights are int8 (symdream.diffusion.int8).
Model card: symdream/assets/sprite/README.md.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from symdream.diffusion.base import Base
from symdream.diffusion.hashes import weights_hash
from symdream.diffusion.int8 import read_int8
from symdream.diffusion.names import EMBEDDED
from symdream.diffusion.quiet import quiet_loading

DEFAULTS = {"steps": 25, "guidance": 4.0}
RESOLUTION = 128


def sprite_folder(part: str = "") -> Path:
    """The folder of the embedded models, or of one part: sprite-diffusion, sprite-clip or sprite-dino."""
    return Path(str(files("symdream"))) / "assets" / "sprite" / part


def load_transformers_part(model_class: type, folder: Path, **model_args):
    """An embedded transformers model in fp32; `model_args` go to its constructor.

    The stored names are the hub's, and only from_pretrained maps them to the names of the installed version.
    """
    config = model_class.config_class.from_pretrained(folder, local_files_only=True)
    with quiet_loading():
        model = model_class.from_pretrained(
            None, config=config, state_dict=read_int8(folder), dtype=torch.float32, **model_args
        )
    return model.eval()


def load_diffusers_part(model_class: type, folder: Path):
    """An embedded diffusers model in fp32."""
    with torch.device("meta"):  # no random start: every weight is assigned below, strictly
        model = model_class.from_config(model_class.load_config(folder, local_files_only=True))
    model.load_state_dict(read_int8(folder), assign=True)
    return model.eval()


def load_sprite(folder: Path | None = None) -> Base:
    """The embedded base 'sprite', in fp32 on the CPU; `folder`: another sprite-diffusion of the same storage."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    folder = folder or sprite_folder("sprite-diffusion")
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    return Base(
        name=EMBEDDED,
        identity=EMBEDDED,
        family="sd1",
        unet=load_diffusers_part(UNet2DConditionModel, folder / "unet"),
        vae=load_diffusers_part(AutoencoderKL, folder / "vae"),
        text_encoders=[load_transformers_part(CLIPTextModel, folder / "text_encoder")],
        tokenizers=[CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)],
        scheduler=scheduler,
        prediction_type=scheduler.config.prediction_type,
        resolution=RESOLUTION,
        defaults=dict(DEFAULTS),
        hasher=lambda: weights_hash(folder, folder.glob("*/*.safetensors")),
        licence="Apache-2.0",
    )
