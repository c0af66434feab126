"""The training set of one run: photos as cached latents, captions as token ids, both on the device.

A batch is a pure function of (seed, step): which photo, which timestep, which noise (symdream.data.draws).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from symdream.data import draws
from symdream.diffusion.base import Base
from symdream.diffusion.conditioning import Text, encode, size_ids, tokenize
from symdream.diffusion.loss import offset_noise
from symdream.errors import WorkError


def square(image: Image.Image, side: int) -> Image.Image:
    """The centre square of `image`, resized to side × side (Lanczos)."""
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.LANCZOS)


def square_sizes(image: Image.Image, side: int) -> Tensor:
    """SDXL's size_ids of a photo that `square` cuts."""
    edge = min(image.size)
    scale = side / edge
    top, left = (image.height - edge) // 2, (image.width - edge) // 2
    return size_ids((image.height, image.width), (round(top * scale), round(left * scale)), (side, side))


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image to (3, H, W) in [-1, 1], the VAE's range."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def encode_images(vae: torch.nn.Module, images: dict[str, Image.Image]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (N, 4, H/8, W/8) of the VAE's posterior, fp32, unscaled.

    The VAE runs in fp32 here: Stable Diffusion's overflows in fp16, and encoding happens once.
    Raises: WorkError naming the image whose latents are not finite.
    """
    dtype = next(vae.parameters()).dtype
    device = next(vae.parameters()).device
    # nn.Module's own `to`: diffusers' override warns about a list of modules that is empty here.
    torch.nn.Module.to(vae, dtype=torch.float32)
    means, deviations = [], []
    for name, image in images.items():
        posterior = vae.encode(to_tensor(image).unsqueeze(0).to(device)).latent_dist
        if not (posterior.mean.isfinite().all() and posterior.std.isfinite().all()):
            raise WorkError(f"The VAE gives no finite latents for {name}.", fix="open and save the photo again")
        means.append(posterior.mean[0])
        deviations.append(posterior.std[0])
    torch.nn.Module.to(vae, dtype=dtype)
    return torch.stack(means), torch.stack(deviations)


@dataclass
class Batch:
    """The inputs of one forward pass over B samples, on the device.

    x0, noise (B, 4, h, w) fp32; timesteps (B,); captions (B,) rows of the C captions in use, which are given as
    `token_ids`, (C, 77) for each tokenizer, or as `text`, already encoded; sizes (B, 6), SDXL's size_ids;
    weights (B,) of the samples in the loss (None: all 1).
    """

    x0: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: Tensor
    token_ids: tuple[Tensor, ...] = ()
    text: Text | None = None
    sizes: Tensor | None = None
    weights: Tensor | None = None


class TrainingSet:
    """Latents and captions of the photos on the device, and the batches drawn from them.

    `frozen_text`: no text encoder is trained, so captions are encoded here, once.
    """

    def __init__(
        self,
        base: Base,
        photos: dict[Path, Image.Image],
        captions: Sequence[str],
        resolution: int,
        noise_offset: float = 0.0,
        frozen_text: bool = False,
    ):
        images = {path.name: square(image, resolution) for path, image in photos.items()}
        self.mean, self.std = encode_images(base.vae, images)
        self.scaling_factor = base.vae.config.scaling_factor
        texts = sorted(set(captions))
        self.token_ids = tuple(ids.to(base.device) for ids in tokenize(base, texts))
        with torch.no_grad():
            self.text = encode(base, self.token_ids) if frozen_text else None
        self.sizes = torch.stack([square_sizes(photo, resolution) for photo in photos.values()]).to(base.device)
        self.noise_offset = noise_offset
        self.caption = [texts.index(caption) for caption in captions]
        self.timesteps = base.scheduler.config.num_train_timesteps
        self.device = base.device

    def __len__(self) -> int:
        return len(self.caption)

    def batch(self, seed: int, samples: Sequence[int]) -> Batch:
        """The batch of the given global sample indices."""
        shape = tuple(self.mean.shape[1:])
        chosen = [draws.image_index(seed, k, len(self)) for k in samples]
        noise = torch.stack([draws.normal(seed, k, shape, "noise") for k in samples]).to(self.device)
        if self.noise_offset:
            offsets = torch.stack([draws.normal(seed, k, (shape[0], 1, 1), "offset") for k in samples])
            noise = offset_noise(noise, offsets.to(self.device), self.noise_offset)
        posterior = torch.stack([draws.normal(seed, k, shape, "latent") for k in samples]).to(self.device)
        timesteps = torch.tensor([draws.timestep(seed, k, self.timesteps) for k in samples], device=self.device)
        # Photos mostly share one caption: each different caption goes through the text encoder once.
        used = sorted({self.caption[i] for i in chosen})
        rows = torch.tensor([used.index(self.caption[i]) for i in chosen], device=self.device)
        return Batch(
            x0=self.scaling_factor * (self.mean[chosen] + self.std[chosen] * posterior),
            noise=noise,
            timesteps=timesteps,
            captions=rows,
            token_ids=tuple(ids[used] for ids in self.token_ids),
            text=None if self.text is None else self.text.rows(torch.tensor(used, device=self.device)),
            sizes=self.sizes[chosen],
        )
