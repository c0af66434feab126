"""A base model, ready to be adapted: its parts, its identity, and `load_base`, the one way to get one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from symdream.diffusion.hashes import json_hash, settings_of
from symdream.diffusion.names import EMBEDDED, Source, resolve_name

# What suits SD 1.x, 2.x and SDXL; sprite has its own.
SAMPLING_DEFAULTS = {"steps": 30, "guidance": 7.5}


@dataclass
class Base:
    """A Stable Diffusion model in parts: in eval mode, not frozen, all of one dtype and device.

    `family` is the architecture ("sd1", "sd2" or "sdxl"); `prediction_type` is what the UNet was trained to
    predict ("epsilon" or "v_prediction"); `resolution` is in pixels; `defaults` are the sampling `steps` and
    `guidance` that suit it. `force_zeros_for_empty_prompt` (SDXL alone has the choice): no negative prompt is zeros and
    not the embedding of "". `licence` is the word of its model `card`, a README.md; None where there is none.
    """

    name: str  # as the user asked for it
    identity: str  # "sprite", "owner/repo@commit", "folder:NAME" or "file:NAME"
    family: str
    unet: nn.Module
    vae: nn.Module
    text_encoders: list[nn.Module]
    tokenizers: list
    scheduler: object
    prediction_type: str
    resolution: int
    defaults: dict
    hasher: Callable[[], str] = field(repr=False)
    force_zeros_for_empty_prompt: bool = True
    licence: str | None = None
    card: Path | None = None

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) over the weights; see symdream.diffusion.hashes. Computed when first asked for."""
        return self.hasher()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) over the weights, every model's settings and the tokenizers' vocabularies.

        What is kept by it was made by just this base. `hash` is the identity that files state: a repaired config.json
        leaves it as it is.
        """
        models = [settings_of(part) for part in (self.unet, self.vae, *self.text_encoders)]
        words = [[tokenizer.get_vocab(), tokenizer.model_max_length] for tokenizer in self.tokenizers]
        return json_hash([self.hash, models, words])

    @property
    def embedded(self) -> bool:
        """Whether this is sprite, which draws emoji art and has rates, prompts and encoders of its own."""
        return self.identity == EMBEDDED

    @property
    def text_encoder(self) -> nn.Module:
        return self.text_encoders[0]

    @property
    def tokenizer(self):
        return self.tokenizers[0]

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    def components(self) -> dict[str, nn.Module]:
        """The models that can carry adapters, by diffusers' names: unet, text_encoder[, text_encoder_2]."""
        names = ("text_encoder", "text_encoder_2")
        return {"unet": self.unet, **dict(zip(names, self.text_encoders, strict=False))}

    def chosen(self, components: str) -> list[str]:
        """The names in `components()` that "unet", "text_encoder" (all of them) or "both" stand for."""
        return [c for c in self.components() if components == "both" or c.removesuffix("_2") == components]

    def to(self, device=None, dtype: torch.dtype | None = None) -> Base:
        """Move every model; returns self."""
        for module in (self.unet, self.vae, *self.text_encoders):
            # nn.Module's own `to`: diffusers' override warns about a list of modules that is empty here.
            nn.Module.to(module, device=device, dtype=dtype)
        return self

    def pipeline(self):
        """A diffusers pipeline over these same modules, without a safety checker or a progress bar.

        Its scheduler is its own: sampling with it leaves `scheduler`, on which training computes, as it is.
        """
        from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        from symdream.diffusion.sampling import make_scheduler

        shared = {"unet": self.unet, "vae": self.vae, "scheduler": make_scheduler(self, "base")}
        if self.family == "sdxl":
            pipe = StableDiffusionXLPipeline(
                text_encoder=self.text_encoders[0],
                text_encoder_2=self.text_encoders[1],
                tokenizer=self.tokenizers[0],
                tokenizer_2=self.tokenizers[1],
                force_zeros_for_empty_prompt=self.force_zeros_for_empty_prompt,
                add_watermarker=False,
                **shared,
            )
        else:
            pipe = StableDiffusionPipeline(
                text_encoder=self.text_encoder,
                tokenizer=self.tokenizer,
                safety_checker=None,
                feature_extractor=None,
                requires_safety_checker=False,
                **shared,
            )
        pipe.set_progress_bar_config(disable=True)
        return pipe


def load_base(name: str = "sprite", *, device="cpu", dtype: torch.dtype = torch.float32) -> Base:
    """Load a base by name: `sprite`, `sd15`, `sdxl`, a hub id, a diffusers folder or a .safetensors file.

    A hub base that the cache lacks is downloaded first, which is said on stderr.
    Raises: RequestError if the name means nothing that can be loaded, WorkError if fetching or loading failed.
    """
    base = _load(resolve_name(name), dtype).to(device, dtype)
    if base.device.type in ("cpu", "cuda"):
        # The order of memory that both convolution libraries work in: sprite's step takes 4 to 12 % less (2 CPU cores).
        for module in (base.unet, base.vae):
            nn.Module.to(module, memory_format=torch.channels_last)
    return base


def _load(source: Source, dtype: torch.dtype) -> Base:
    # Imported here, since each of these modules builds a Base and so imports this one.
    if source.kind == "embedded":
        from symdream.diffusion.embedded import load_sprite

        return load_sprite()
    if source.kind == "file":
        from symdream.diffusion.single_file import load_single_file

        return load_single_file(source.path, source.name, dtype)
    from symdream.diffusion.folders import load_folder

    if source.kind == "folder":
        return load_folder(source.path, source.name, f"folder:{source.path.resolve().name}", dtype)
    from symdream.diffusion.hub import at_hand

    snapshot = at_hand(source)
    return load_folder(snapshot.folder, source.name, f"{source.repo}@{snapshot.commit}", dtype)
