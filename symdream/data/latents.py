"""Photos as the VAE sees them: mean and deviation of its posterior, encoded once and kept in the cache."""

from __future__ import annotations

from collections.abc import Callable

import torch
from PIL import Image
from torch import Tensor, nn

from symdream.data.buckets import Cut
from symdream.data.store import Store, content_key, tensors_hash
from symdream.diffusion.damage import damaged, damaged_weight
from symdream.diffusion.hashes import json_hash, settings_of
from symdream.errors import WorkError

KIND = "latents"


def to_tensor(image: Image.Image) -> Tensor:
    """RGB image to (3, H, W) in [-1, 1], the VAE's range."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1).float() / 127.5 - 1


@torch.no_grad()
def encode(vae: nn.Module, image: Image.Image, name: str) -> dict[str, Tensor]:
    """mean and std (4, H/8, W/8) of the VAE's posterior for one RGB image, fp32, unscaled.

    The VAE runs in fp32 here: Stable Diffusion's overflows in fp16, and encoding happens once.
    Raises: WorkError if its latents are not finite, naming the weight that is not, or the image.
    """
    device, dtype = next(vae.parameters()).device, next(vae.parameters()).dtype
    # nn.Module's own `to`: diffusers' override warns about a list of modules that is empty here.
    nn.Module.to(vae, dtype=torch.float32)
    try:
        posterior = vae.encode(to_tensor(image).unsqueeze(0).to(device)).latent_dist
    finally:
        nn.Module.to(vae, dtype=dtype)
    if not (posterior.mean.isfinite().all() and posterior.std.isfinite().all()):
        if weight := damaged_weight({"vae": vae}):
            raise damaged(weight)
        raise WorkError(f"The VAE gives no finite latents for {name}.", fix="open and save the photo again")
    return {"mean": posterior.mean[0], "std": posterior.std[0]}


class LatentCache:
    """Latents by content: image bytes, whether their colours are converted to sRGB, cut, the VAE's very weights,
    number format and kind of device."""

    def __init__(self, vae: nn.Module, store: Store):
        self.vae, self.store = vae, store
        self.vae_hash = json_hash([tensors_hash(vae.state_dict()), settings_of(vae)])
        self.device = next(vae.parameters()).device.type

    def key(self, image_sha256: str, cut: Cut, converted: bool) -> str:
        return content_key(
            image=image_sha256, box=cut.box, size=cut.size, flip=cut.flip,
            vae=self.vae_hash, dtype="float32", device=self.device,
            **({"colours": "sRGB"} if converted else {}),
        )  # fmt: skip

    def __call__(
        self, image_sha256: str, cut: Cut, read: Callable[[], Image.Image], name: str, *, converted: bool = False
    ) -> dict[str, Tensor]:
        """mean and std of `cut`; the image is only read if they are not cached. converted: whether its file's colours
        are converted as it is read."""
        key = self.key(image_sha256, cut, converted)
        return self.store.fetch(KIND, key, lambda: encode(self.vae, cut.apply(read()), name))
