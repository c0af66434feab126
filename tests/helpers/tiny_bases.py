"""Tiny bases of each family with adapters on them, and what they answer, for tests of interop."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from helpers.adapters import randomize
from helpers.tiny_models import _text_config, _unet_config, tiny_parts, tiny_scheduler
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import Base
from symdream.diffusion.embedded import sprite_folder
from symdream.tuners import set_ramp

FAMILIES = ("sd1", "sd2", "sdxl")
SMALLER = {"lora_B": 0.2, "singlora_A": 0.6, "symlora_lambda": 0.3}
PROMPT = "a 3d render of a sks bird on a red background"


@functools.cache
def _weights(family: str) -> dict:
    parts = tiny_parts(family)
    if family == "sdxl":
        # Readers tell SDXL's two text encoders apart by their widths.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            parts["text_encoder"] = CLIPTextModel(_text_config(24, 2018, openclip=False)).eval()
            parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(40, 2018, openclip=True)).eval()
            config = _unet_config(family, 32, 4) | {"projection_class_embeddings_input_dim": 40 + 6 * 256}
            parts["unet"] = UNet2DConditionModel(**config).eval()
    return {name: (module, {k: v.clone() for k, v in module.state_dict().items()}) for name, module in parts.items()}


def tiny_base(family: str) -> Base:
    """A base with random weights, the same at every call, fresh modules each time. Text states are narrower than
    some of the UNet's blocks, so that there are layers that are not square."""
    parts = {}
    for name, (module, state) in _weights(family).items():
        kind, config = type(module), module.config
        fresh = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
        fresh.load_state_dict(state)
        parts[name] = fresh.eval()
    encoders = [parts[name] for name in ("text_encoder", "text_encoder_2") if name in parts]
    tokenizer = CLIPTokenizer.from_pretrained(sprite_folder("sprite-diffusion") / "tokenizer", local_files_only=True)
    prediction_type = "v_prediction" if family == "sd2" else "epsilon"
    return Base(
        name=f"tiny-{family}",
        identity=f"folder:tiny-{family}",
        family=family,
        unet=parts["unet"],
        vae=parts["vae"],
        text_encoders=encoders,
        tokenizers=[tokenizer] * len(encoders),
        scheduler=tiny_scheduler(prediction_type),
        prediction_type=prediction_type,
        resolution=64,
        defaults={"steps": 2, "guidance": 2.0},
        hasher=lambda: "0" * 64,
    )


def write_base(base: Base, folder: Path) -> Path:
    base.pipeline().save_pretrained(folder)
    return folder


def adapted(family: str, method: str, *, rank: int = 4, alpha: float = 2.0, targets: str = "qkvo") -> Base:
    """A tiny base with an adapter: see `adapt`."""
    return adapt(tiny_base(family), method, rank=rank, alpha=alpha, targets=targets)


def adapt(base: Base, method: str, *, rank: int = 4, alpha: float = 2.0, targets: str = "qkvo") -> Base:
    """Put an adapter of trained size on the UNet and every text encoder; SingLoRA's u is 0.7."""
    attach(base, method, rank, alpha, targets, base.components(), 0.0, 0)
    for seed, module in enumerate(base.components().values()):
        randomize(module, seed)
        for name, parameter in module.named_parameters():
            # Smaller than the weights they add to, as after a training; else rounding is all that is seen.
            if factor := next((f for part, f in SMALLER.items() if part in name), None):
                parameter.data *= factor
        set_ramp(module, 0.7)
    return base


@torch.no_grad()
def answers(family: str, unet, text_encoders) -> list[torch.Tensor]:
    """What the UNet and the text encoders say to fixed inputs."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, 2000, (2, 11), generator=generator)
    said = [encoder(ids, output_hidden_states=True).hidden_states[-1] for encoder in text_encoders]
    config = unet.config
    # 16 x 16, so that the deepest level is 2 x 2: normalising the two numbers of a group at 1 x 1 amplifies rounding.
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    states = torch.randn(2, 11, config.cross_attention_dim, generator=generator)
    extra = {}
    if family == "sdxl":
        pooled = torch.randn(2, config.projection_class_embeddings_input_dim - 6 * 256, generator=generator)
        extra["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": torch.full((2, 6), 64.0)}
    return [unet(latents, 300, states, **extra).sample, *said]


def base_answers(base: Base) -> list[torch.Tensor]:
    return answers(base.family, base.unet, base.text_encoders)


def pipe_answers(pipe, family: str) -> list[torch.Tensor]:
    encoders = [e for name in ("text_encoder", "text_encoder_2") if (e := getattr(pipe, name, None)) is not None]
    return answers(family, pipe.unet, encoders)


def distance(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    """The largest relative difference (Euclidean norm) of the pairs."""
    return max(float((f - w).norm() / w.norm()) for f, w in zip(found, wanted, strict=True))


@torch.no_grad()
def picture(pipe) -> torch.Tensor:
    """One image in two steps, (3, 128, 128) from 0 to 1."""
    generator = torch.Generator().manual_seed(3)
    options = {"num_inference_steps": 2, "guidance_scale": 2.0, "height": 128, "width": 128, "output_type": "pt"}
    pipe.set_progress_bar_config(disable=True)
    return pipe(PROMPT, generator=generator, **options).images[0]
