"""The parts of a base that lies in sprite's storage: sprite-diffusion, sprite-clip and sprite-dino in one folder."""

from __future__ import annotations

from pathlib import Path

from symdream.diffusion.base import Base
from symdream.diffusion.embedded import load_diffusers_part, load_sprite, load_transformers_part, sprite_folder
from symdream.diffusion.hashes import weights_hash
from symdream.errors import RequestError
from symdream.metrics.encoders import ClipEncoder, DinoEncoder
from symdream.metrics.preprocessing import sprite_preprocessing

FOLDERS = {
    "vae": "sprite-diffusion/vae",
    "text_encoder": "sprite-diffusion/text_encoder",
    "unet": "sprite-diffusion/unet",
    "clip": "sprite-clip",
    "dino": "sprite-dino",
}


def has(root: Path, part: str) -> bool:
    return any((root / FOLDERS[part]).glob("weights-*.safetensors"))


def load_part(root: Path, part: str):
    """One model in fp32 and eval mode. Raises: RequestError if it is not there, WorkError if a shard is damaged."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel, ViTModel

    if not has(root, part):
        raise RequestError(f"There is no {part} here.", where=str(root / FOLDERS[part]), fix="train or copy it first")
    folder = root / FOLDERS[part]
    if part in ("vae", "unet"):
        return load_diffusers_part({"vae": AutoencoderKL, "unet": UNet2DConditionModel}[part], folder)
    if part == "dino":
        return load_transformers_part(ViTModel, folder, add_pooling_layer=False)
    return load_transformers_part({"clip": CLIPModel, "text_encoder": CLIPTextModel}[part], folder)


def load_tokenizer():
    """The embedded one: the recipe makes no other, since the text tower's token table hangs on it."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(sprite_folder("sprite-diffusion") / "tokenizer", local_files_only=True)


def load_base_at(root: Path) -> Base:
    """The pipeline's parts, as symdream's own commands have them."""
    for part in ("vae", "text_encoder", "unet"):
        if not has(root, part):
            raise RequestError(f"There is no {part} here.", where=str(root / FOLDERS[part]), fix="train it first")
    return load_sprite(root / "sprite-diffusion")


def clip_encoder(root: Path, device="cpu") -> ClipEncoder:
    model = load_part(root, "clip").to(device)
    return ClipEncoder(model, sprite_preprocessing(), _provenance(root, "clip"), tokenizer=load_tokenizer())


def dino_encoder(root: Path, device="cpu") -> DinoEncoder:
    return DinoEncoder(load_part(root, "dino").to(device), sprite_preprocessing(), _provenance(root, "dino"))


def _provenance(root: Path, part: str) -> dict:
    folder = root / FOLDERS[part]
    return {"model": f"sprite-{part}", "weights_sha256": weights_hash(folder, folder.glob("*.safetensors"))}
