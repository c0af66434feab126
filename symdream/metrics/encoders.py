"""The encoders behind the scores: DINO for identity, CLIP for identity and prompt; each says what it is.

`load_dino` and `load_clip` take `sprite` (embedded, for its emoji art only), a hub id (`owner/name` or
`owner/name@revision`) or a local folder in transformers' layout. Every encoder has exactly one preprocessing,
and `provenance` names model, revision, weights' hash, preprocessing and pooling: enough to get the same numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch.nn import functional as F

from symdream.diffusion.embedded import load_transformers_part, sprite_folder
from symdream.diffusion.hashes import weights_hash
from symdream.diffusion.quiet import quiet_loading
from symdream.errors import RequestError
from symdream.metrics.model_files import ModelFiles, find_model
from symdream.metrics.preprocessing import (
    Preprocessing,
    clip_preprocessing,
    dino_preprocessing,
    sprite_preprocessing,
)

SPRITE = "sprite"
PHOTO_DINO = "facebook/dino-vits16"
PHOTO_CLIP = "openai/clip-vit-base-patch32"
DINO_TYPES = ("vit", "dinov2", "dinov2_with_registers")
CLIP_TYPES = ("clip",)


@dataclass
class Encoder:
    """An image encoder with its one preprocessing: `images` gives L2-normalised embeddings."""

    model: torch.nn.Module
    preprocessing: Preprocessing
    provenance: dict
    batch_size: int = 32
    fingerprint: str = field(init=False)  # hex, equal for equal provenance: the key of cached embeddings

    def __post_init__(self) -> None:
        self.model.eval().requires_grad_(False)
        described = json.dumps(self.provenance, sort_keys=True)
        self.fingerprint = hashlib.sha256(described.encode()).hexdigest()

    @property
    def is_sprite(self) -> bool:
        return self.provenance["model"].startswith(SPRITE + "-")

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """RGB images -> [N, D] float32 on the CPU, rows of length 1."""
        device = next(self.model.parameters()).device
        rows = [
            self.features(self.preprocessing(images[i : i + self.batch_size]).to(device)).float().cpu()
            for i in range(0, len(images), self.batch_size)
        ]
        return F.normalize(torch.cat(rows), dim=-1) if rows else torch.empty(0, self.dim)

    @property
    def dim(self) -> int:
        raise NotImplementedError

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """pixels [B, 3, H, W] -> [B, D], not yet normalised."""
        raise NotImplementedError


class DinoEncoder(Encoder):
    """A ViT's [CLS] token after the last layer and its layer norm."""

    @property
    def dim(self) -> int:
        return self.model.config.hidden_size

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        options = {}
        if self.model.config.model_type == "vit" and self.model.config.image_size != self.preprocessing.crop:
            options["interpolate_pos_encoding"] = True  # DINOv2's models always do
        return self.model(pixels, **options).last_hidden_state[:, 0]


@dataclass
class ClipEncoder(Encoder):
    """CLIP's two towers, each behind its projection into the common space."""

    tokenizer: object = None

    @property
    def dim(self) -> int:
        return self.model.config.projection_dim

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Prompts -> [N, D] float32 on the CPU, rows of length 1; what exceeds the text tower (77 tokens) is cut."""
        device = next(self.model.parameters()).device
        rows = []
        for i in range(0, len(texts), self.batch_size):
            tokens = self.tokenizer(
                list(texts[i : i + self.batch_size]),
                padding="max_length",
                truncation=True,
                max_length=self.max_tokens,
                return_tensors="pt",
            ).to(device)
            pooled = self.model.text_model(**tokens).pooler_output
            rows.append(self.model.text_projection(pooled).float().cpu())
        return F.normalize(torch.cat(rows), dim=-1) if rows else torch.empty(0, self.dim)

    @property
    def max_tokens(self) -> int:
        return self.model.config.text_config.max_position_embeddings

    def too_long(self, texts: Sequence[str]) -> list[str]:
        """The texts of which `texts` would read only the beginning."""
        return [t for t in texts if len(self.tokenizer(t).input_ids) > self.max_tokens]


def load_dino(name: str = SPRITE, *, device: str | torch.device = "cpu") -> DinoEncoder:
    """The DINO called `name`: sprite, a hub id such as facebook/dino-vits16 or facebook/dinov2-small, or a folder.

    Raises: RequestError if it cannot be had, or is no ViT.
    """
    from transformers import Dinov2Model, Dinov2WithRegistersModel, ViTModel

    pooling = "[CLS] of last_hidden_state"
    if name == SPRITE:
        folder = sprite_folder("sprite-dino")
        model = load_transformers_part(ViTModel, folder, add_pooling_layer=False)
        files = ModelFiles("sprite-dino", None, folder, sorted(folder.glob("*.safetensors")))
        preprocessing = sprite_preprocessing()
    else:
        files = find_model(name, what="DINO encoder")
        kinds = {
            "vit": (ViTModel, {"add_pooling_layer": False}),
            "dinov2": (Dinov2Model, {}),
            "dinov2_with_registers": (Dinov2WithRegistersModel, {}),
        }
        model_class, options = kinds[_model_type(files, DINO_TYPES, "--dino", PHOTO_DINO)]
        model = _load(model_class, files, **options)
        preprocessing = dino_preprocessing()
    return DinoEncoder(model.to(device), preprocessing, _provenance(files, preprocessing, pooling))


def load_clip(name: str = SPRITE, *, device: str | torch.device = "cpu") -> ClipEncoder:
    """The CLIP called `name`: sprite, a hub id such as openai/clip-vit-base-patch32, or a folder.

    Raises: RequestError if it cannot be had, or is no CLIP.
    """
    from transformers import CLIPModel, CLIPTokenizer

    if name == SPRITE:
        folder = sprite_folder("sprite-clip")
        model = load_transformers_part(CLIPModel, folder)
        files = ModelFiles("sprite-clip", None, folder, sorted(folder.glob("*.safetensors")))
        preprocessing = sprite_preprocessing()
        tokenizer_folder = sprite_folder("sprite-diffusion") / "tokenizer"
    else:
        files = find_model(name, what="CLIP encoder")
        _model_type(files, CLIP_TYPES, "--clip", PHOTO_CLIP)
        model = _load(CLIPModel, files)
        preprocessing = clip_preprocessing(model.config.vision_config.image_size)
        tokenizer_folder = files.folder
    has_tokenizer = (tokenizer_folder / "tokenizer.json").is_file() or (tokenizer_folder / "vocab.json").is_file()
    if not has_tokenizer:
        raise RequestError(
            f"{files.model} has no tokenizer (neither tokenizer.json nor vocab.json with merges.txt).",
            where=str(tokenizer_folder),
            fix="put the tokenizer files of the model beside its weights",
        )
    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    pooling = "projected [CLS] for images, projected end-of-text token for prompts"
    return ClipEncoder(model.to(device), preprocessing, _provenance(files, preprocessing, pooling), tokenizer=tokenizer)


def load_encoders(
    embedded: bool, dino: str | None = None, clip: str | None = None, *, device: str | torch.device = "cpu"
) -> tuple[DinoEncoder, ClipEncoder]:
    """The pair of these names; None: sprite's own for pictures of the `embedded` base, else that for photographs.

    Raises: RequestError if one cannot be had.
    """
    return (
        load_dino(dino or (SPRITE if embedded else PHOTO_DINO), device=device),
        load_clip(clip or (SPRITE if embedded else PHOTO_CLIP), device=device),
    )


def _provenance(files: ModelFiles, preprocessing: Preprocessing, pooling: str) -> dict:
    return {
        "model": files.model,
        "revision": files.revision,
        "weights_sha256": weights_hash(files.folder, files.weights),
        "preprocessing": preprocessing.describe(),
        "pooling": pooling,
        "normalised": "L2",
    }


def _model_type(files: ModelFiles, known: Sequence[str], flag: str, example: str) -> str:
    config = files.folder / "config.json"
    try:
        found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError) as error:
        raise RequestError(f"{config} is not a model's config: {error}.") from None
    if found not in known:
        raise RequestError(
            f"{files.model} is of type {found!r}; {flag} takes {' or '.join(known)}.",
            fix=f"for example {flag} {example}",
        )
    return found


def _load(model_class: type, files: ModelFiles, **options) -> torch.nn.Module:
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its table of unused weights (DINO's pooler); what matters is checked below
    try:
        with quiet_loading():
            model, report = model_class.from_pretrained(
                files.folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # noqa: BLE001 - transformers raises many kinds for a damaged or foreign folder
        raise RequestError(
            f"{files.model} could not be loaded: {str(error).splitlines()[0]}",
            where=str(files.folder),
            fix="fetch it again, or name another model",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    # transformers fills what is missing with random numbers and goes on; a score from those would be noise.
    if report["missing_keys"] or report["mismatched_keys"]:
        lacking = sorted(str(key) for key in (*report["missing_keys"], *report["mismatched_keys"]))
        raise RequestError(
            f"{files.model} lacks {len(lacking)} weights of a {model_class.__name__}, {lacking[0]} for one.",
            where=str(files.folder),
            fix="name a complete model",
        )
    return model
