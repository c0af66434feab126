"""What the known bases take: download, memory, work. Arithmetic from exact counts, labelled where it is an estimate.

The counts come from the architectures built on the meta device; a test counts them again. Activations are the
bytes that one forward of the UNet keeps for its backward, PEFT LoRA on q, k, v, out, at the base's resolution,
batch 1, counted on the meta device with saved-tensor hooks; attention matrices are left out, since the fused
kernels keep none. FLOPs are one UNet forward at batch 1 (torch.utils.flop_counter).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Parameters of each model; bytes of activations per image by bytes per number, and what gradient checkpointing
    leaves of them; FLOPs of a UNet forward."""

    unet: int
    vae: int
    text: int
    activations: dict[int, float]
    checkpointed: dict[int, float]
    flops: float
    resolution: int

    @property
    def parameters(self) -> int:
        return self.unet + self.vae + self.text


KNOWN = {
    "sprite": Sizes(
        24_806_532, 2_702_087, 3_695_872, {4: 0.044e9, 2: 0.024e9}, {4: 0.0134e9, 2: 0.0074e9}, 6.36e9, 128
    ),
    "sd15": Sizes(859_520_964, 83_653_863, 123_060_480, {4: 1.59e9, 2: 0.89e9}, {4: 0.43e9, 2: 0.24e9}, 803e9, 512),
    "sdxl": Sizes(
        2_567_463_684,
        83_653_863,
        123_060_480 + 694_659_840,
        {4: 11.1e9, 2: 6.42e9},
        {4: 1.24e9, 2: 0.66e9},
        6_782e9,
        1024,
    ),
}


def download_bytes(name: str) -> int:
    """Bytes of the fp16 weights that `symdream base get` fetches (configs and tokenizers add about 2 MB)."""
    return 2 * KNOWN[name].parameters
