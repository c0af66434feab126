"""Small DINO and CLIP models in the real on-disk layouts (real preprocessing sizes, tiny widths)."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from PIL import Image

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_CLIP = {**SMALL, "intermediate_size": 32}


def write_vit(folder: Path, *, image_size: int = 224) -> Path:
    """A ViTModel with its pooler, as facebook/dino-vits16 is stored."""
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(image_size=image_size, patch_size=16, intermediate_size=32, **SMALL)
    ViTModel(config).save_pretrained(folder)
    return folder


def write_dinov2(folder: Path) -> Path:
    """A Dinov2Model at 518 px and patch 14, as facebook/dinov2-small is stored."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    Dinov2Model(Dinov2Config(image_size=518, patch_size=14, mlp_ratio=2, **SMALL)).save_pretrained(folder)
    return folder


def write_clip(folder: Path, *, image_size: int = 224) -> Path:
    """A CLIPModel with sprite's small tokenizer beside it."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = Path(str(files("symdream"))) / "assets" / "sprite" / "sprite-diffusion" / "tokenizer"
    torch.manual_seed(0)
    tokens = {"vocab_size": 2018, "bos_token_id": 2016, "eos_token_id": 2017, "pad_token_id": 2017}
    config = CLIPConfig(
        text_config={**SMALL_CLIP, **tokens},
        vision_config={**SMALL_CLIP, "image_size": image_size, "patch_size": 32},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder)
    for path in tokenizer.iterdir():
        shutil.copy(path, folder)
    return folder


def write_pickle_only(folder: Path) -> Path:
    """A ViT stored as pytorch_model.bin; its bytes are no pickle at all, so reading it would fail loudly."""
    write_vit(folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"never read")
    return folder


def write_hub_cache(cache: Path, repo: str, source: Path, *, commit: str = "a" * 40, ref: str = "main") -> Path:
    """Put `source` into a hub cache as `repo` at `commit`, the way huggingface_hub lays it out."""
    root = cache / f"models--{repo.replace('/', '--')}"
    snapshot = root / "snapshots" / commit
    shutil.copytree(source, snapshot)
    (root / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
    (root / "refs" / ref).write_text(commit)
    return snapshot


def drop_weight(folder: Path, name: str) -> None:
    """Remove one tensor from folder/model.safetensors."""
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state[name]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def set_config(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Noise blown up to blotches: different for each seed, with edges that resizing changes."""
    blotches = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return Image.fromarray(blotches).resize(size, Image.Resampling.NEAREST)
