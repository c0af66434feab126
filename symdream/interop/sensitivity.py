"""How much the base's answer owes to each part of an adapter: what compression should keep.

For one layer with the update B A, its input x and the gradient g of v . eps with respect to its output, v ~ N(0, I):

    S_A = E[A x (A x)^T]        S_B = sum over positions of E[B^T g (B^T g)^T]
    E ||d eps||^2 ~ tr(S_B (M - I) S_A (M - I)^T)       for the update B M A in the place of B A

eps is the guided noise prediction. Layers, and inputs and gradients, are taken to be independent of each other (the
Kronecker factors of arXiv:1503.05671), so r x r numbers a layer are enough. Taking x and g to be white noise instead
gives S_A = A A^T and S_B = B^T B, and with them the error of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from symdream.diffusion.base import Base
from symdream.diffusion.conditioning import unet_arguments
from symdream.diffusion.sampling import denoise, encode_prompts, make_scheduler, noise_sources, starting_noise
from symdream.interop.keys import Place, with_text_model
from symdream.interop.layers import Adapter, PlainLayer

LOOKS = 12  # timesteps of each picture at which gradients are taken
SEEDS = (8_800_001, 8_800_002)  # of no report, and of no selection (symdream.training.judge)

Look = tuple[str, Tensor, Tensor]  # prompt, x_t and t


@dataclass
class Moments:
    """S_A and S_B of a layer, both (r, r), float64."""

    A: Tensor
    B: Tensor


def measure(base: Base, adapter: Adapter, looks: Sequence[Look]) -> dict[Place, Moments]:
    """The moments of every layer of `adapter`, which is attached to `base` as LoRA, over `looks`.

    They are estimates: another v gives slightly others.
    """
    found: dict[Place, Moments] = {}
    generator = torch.Generator().manual_seed(0)
    with watched(base, adapter, found):
        for look in looks:
            prediction = guided(base, *look)
            v = torch.randn(prediction.shape, generator=generator).to(prediction)
            (prediction * v).sum().backward()
    return found


def looks_at(base: Base, prompts: Sequence[str], seeds: Sequence[int] = SEEDS) -> list[Look]:
    """What the UNet sees at LOOKS steps of drawing each prompt from each seed, with what is attached to the base."""
    return [(prompt, x_t, t) for prompt in prompts for seed in seeds for x_t, t in visited(base, prompt, seed)]


@torch.no_grad()
def visited(base: Base, prompt: str, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(x_t, t) at LOOKS evenly spaced steps of drawing `prompt`, as the UNet sees them."""
    scheduler = make_scheduler(base, "base")
    scheduler.set_timesteps(base.defaults["steps"], device="cpu")
    size = (base.resolution, base.resolution)
    seen: list[tuple[Tensor, Tensor]] = []
    generators = noise_sources([seed])
    latents = starting_noise(base, generators, size) * scheduler.init_noise_sigma
    conditioning = encode_prompts(base, [prompt], "", True, size)

    def see(_done: int, x_t: Tensor, _prediction: Tensor, t: Tensor) -> None:
        seen.append((x_t, t))

    denoise(base, scheduler, latents, conditioning, base.defaults["guidance"], generators, see)
    places = torch.linspace(0, len(seen) - 1, min(LOOKS, len(seen))).round().int().tolist()
    return [seen[i] for i in places]


def guided(base: Base, prompt: str, x_t: Tensor, t: Tensor) -> Tensor:
    """The guided prediction, with gradients through the UNet and the text encoders."""
    conditioning = encode_prompts(base, [prompt], "", True, (base.resolution, base.resolution))
    arguments = unet_arguments(conditioning.text, conditioning.sizes)
    unconditional, conditional = base.unet(torch.cat([x_t] * 2), t.to(base.device), **arguments).sample.chunk(2)
    return unconditional + base.defaults["guidance"] * (conditional - unconditional)


@contextmanager
def watched(base: Base, adapter: Adapter, found: dict[Place, Moments]) -> Iterator[None]:
    """Inside it, every backward pass adds to the moments in `found`."""
    handles, parameters = [], []
    for component, model in base.components().items():
        for name, module in model.named_modules():
            place = Place(component, with_text_model(name))
            if isinstance(module, BaseTunerLayer) and place in adapter.layers:
                handles.append(module.register_forward_hook(hook(adapter.layers[place], place, found)))
                parameters += [p for part, p in module.named_parameters() if not part.startswith("base_layer.")]
    # Without a trainable parameter there is no graph to go back through.
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, old in zip(parameters, before, strict=True):
            parameter.requires_grad_(old)
            parameter.grad = None


def hook(layer: PlainLayer, place: Place, found: dict[Place, Moments]) -> Callable:
    A, B = layer.A.double(), layer.B.double() * layer.scale
    zero = torch.zeros(layer.rank, layer.rank, dtype=torch.float64)
    moments = found.setdefault(place, Moments(zero.clone(), zero.clone()))

    def forward(module, args, output: Tensor) -> None:
        z = args[0].detach().cpu().double().flatten(0, -2) @ A.T
        moments.A += z.T @ z / len(z)

        def backward(gradient: Tensor) -> None:
            g = gradient.detach().cpu().double().flatten(0, -2) @ B
            moments.B += g.T @ g

        output.register_hook(backward)

    return forward
