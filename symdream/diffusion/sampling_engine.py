"""The denoising step: the UNet's prediction with guidance, as one recorded graph on CUDA.

    ε(x_t, t) = ε_uncond + g (ε_text - ε_uncond)        classifier-free guidance (arXiv:2207.12598, eq. 6), g > 1
    ε(x_t, t) = ε_text                                  without

Both halves go through the UNet as one batch of 2B rows, those without text first. The scheduler's own step stays
outside: a handful of small operations, which the host issues while the graph still runs, so that every scheduler of
diffusers works and gives what it gives in diffusers' own pipeline (tests/diffusion/test_sampling_engine.py: equal bit
for bit on CPU in fp32).
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from symdream.diffusion.captured import Captured, fill, fingerprint
from symdream.diffusion.conditioning import Text, unet_arguments

KEPT = 4  # graphs that one UNet keeps: a size, a batch and an odd last batch, twice


@dataclass
class Conditioning:
    """What the UNet is given besides x_t and t: text of G·B rows (G = 2 with guidance), sizes (G·B, 6) on SDXL."""

    text: Text
    sizes: Tensor | None = None

    def tensors(self) -> dict[str, Tensor | None]:
        return {"hidden": self.text.hidden, "pooled": self.text.pooled, "sizes": self.sizes}


class DenoisingStep:
    """ε(x_t, t) of one UNet for batches of one shape: x_t (B, 4, h, w) -> (B, 4, h, w).

    guidance: g, or None for no guidance. `condition_on` says for which text; `predict` may then run for every timestep.
    """

    def __init__(
        self, unet: nn.Module, latents: Tensor, conditioning: Conditioning, guidance: float | None, pool: object | None
    ):
        device = latents.device
        self.buffers = {
            "latents": torch.zeros_like(latents),
            "timestep": torch.zeros((), dtype=torch.float32, device=device),
            **{name: None if value is None else value.clone() for name, value in conditioning.tensors().items()},
        }
        self.out = torch.zeros_like(latents)
        buffers, out = self.buffers, self.out
        arguments = unet_arguments(Text(buffers["hidden"], buffers["pooled"]), buffers["sizes"])

        def step() -> None:
            x = buffers["latents"] if guidance is None else torch.cat([buffers["latents"]] * 2)
            prediction = unet(x, buffers["timestep"], **arguments, return_dict=False)[0]
            if guidance is not None:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + guidance * (conditional - unconditional)
            out.copy_(prediction)

        self.run = Captured(step, device, pool, unet)

    def condition_on(self, conditioning: Conditioning) -> None:
        values = conditioning.tensors()
        fill({name: self.buffers[name] for name in values}, values)

    def predict(self, latents: Tensor, timestep: Tensor) -> Tensor:
        fill({name: self.buffers[name] for name in ("latents", "timestep")}, {"latents": latents, "timestep": timestep})
        self.run()
        return self.out.clone()  # some schedulers (PNDM) keep what they are given, and the next call writes here


class DenoisingSteps:
    """The steps that one UNet has recorded, over one pool of memory; the oldest give way to new ones."""

    def __init__(self) -> None:
        self._steps: dict[tuple, DenoisingStep] = {}
        self._fingerprint, self._pool = None, None

    def get(
        self, unet: nn.Module, latents: Tensor, conditioning: Conditioning, guidance: float | None
    ) -> DenoisingStep:
        """A step for this shape and guidance with this conditioning; recorded if there is none, or the UNet changed."""
        found = fingerprint(unet)
        if found != self._fingerprint:
            self._steps.clear()
            self._fingerprint, self._pool = found, None
        shapes = tuple(None if value is None else tuple(value.shape) for value in conditioning.tensors().values())
        key = (latents.shape, latents.dtype, latents.device, shapes, guidance)
        if key in self._steps:
            self._steps[key].condition_on(conditioning)
            return self._steps[key]
        while len(self._steps) >= KEPT:
            del self._steps[next(iter(self._steps))]
        if latents.device.type == "cuda" and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        self._steps[key] = DenoisingStep(unet, latents, conditioning, guidance, self._pool)
        return self._steps[key]


_KEPT_BY: weakref.WeakKeyDictionary[nn.Module, DenoisingSteps] = weakref.WeakKeyDictionary()


def denoising_step(
    unet: nn.Module, latents: Tensor, conditioning: Conditioning, guidance: float | None
) -> DenoisingStep:
    """The step for these shapes on this UNet. On CUDA its graph is kept for the next batch of the same shapes."""
    if latents.device.type != "cuda":
        return DenoisingStep(unet, latents, conditioning, guidance, None)  # keeping it would keep the UNet
    return _KEPT_BY.setdefault(unet, DenoisingSteps()).get(unet, latents, conditioning, guidance)


def release_graphs(unet: nn.Module) -> None:
    """Give back the memory of the graphs that this UNet keeps."""
    if _KEPT_BY.pop(unet, None) is not None:
        torch.cuda.empty_cache()
