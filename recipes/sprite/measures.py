"""What score.py says of VAE, CLIP and DINO: each of real compositions, none of which a model saw in training."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.sprite.compose import Composer, Scene
from recipes.sprite.language import STYLES, drawing_of

BATCH = 64


@torch.inference_mode()
def in_batches(function, pictures: Tensor) -> Tensor:
    return torch.cat([function(part) for part in pictures.split(BATCH)])


def every_sprite(composer: Composer, generator: torch.Generator) -> Scene:
    """One scene for each thing in each style, alone on a random background, its caption said in full."""
    count = len(composer.things) * len(STYLES)
    scene = composer.draw(count, two=0, generator=generator).said_in_full()
    number = torch.arange(count, device=composer.device)
    things = torch.stack([number // len(STYLES), torch.full_like(number, -1)], dim=1)
    return replace(scene, things=things, style=number % len(STYLES))


def round_trip(vae, pictures: Tensor) -> Tensor:
    """What the VAE gives back of pictures (B, 3, 128, 128), from -1 to 1."""
    return in_batches(lambda part: vae.decode(vae.encode(part).latent_dist.mode()).sample.clamp(-1, 1), pictures)


def vae_psnr(vae, composer: Composer, seed: int) -> float:
    """Mean over the held-out sprites of 10 log10(1 / MSE), dB, of pixels from 0 to 1."""
    generator = torch.Generator(composer.device).manual_seed(seed)
    pictures = composer.render(every_sprite(composer, generator))
    errors = ((round_trip(vae, pictures) - pictures) / 2).square().mean(dim=(1, 2, 3))
    return (-10 * errors.log10()).mean().item()


@torch.inference_mode()
def clip_retrieval(clip, composer: Composer, count: int, seed: int) -> float:
    """Retrieval@1 of `count` pairs with different captions, the mean of both directions (things that were trained on,
    in compositions that were not)."""
    generator = torch.Generator(composer.device).manual_seed(seed)
    scenes = composer.draw(2 * count, generator=generator).said_in_full()
    captions = composer.captions(scenes)
    chosen = list({text: i for i, text in enumerate(captions)}.values())[:count]
    scenes = scenes[torch.tensor(chosen, device=composer.device)]
    images = in_batches(lambda part: F.normalize(clip.features(part), dim=-1), composer.render(scenes)).float().cpu()
    texts = clip.texts([captions[i] for i in chosen])
    similar = images @ texts.T
    truth = torch.arange(len(chosen))
    return (((similar.argmax(0) == truth).float().mean() + (similar.argmax(1) == truth).float().mean()) / 2).item()


def dino_instance(dino, vae, composer: Composer, seed: int) -> dict[str, float]:
    """Held-out sprites, each on two backgrounds: is its other picture the nearest among all the others'?

    retrieval   share of sprites whose first picture is nearest to their own second one
    drawing     the same, the two styles that are ONE_DRAWING counted as one
    same        mean cosine of the two
    other       mean cosine of pictures of different things
    style       mean cosine of one thing in two styles
    round_trip  what `same` loses when the second picture went through the VAE
    """
    generator = torch.Generator(composer.device).manual_seed(seed)
    pictures = [composer.render(every_sprite(composer, generator)) for _ in range(2)]

    def encode(images: Tensor) -> Tensor:
        return in_batches(lambda part: F.normalize(dino.features(part), dim=-1), images).float().cpu()

    first, second = map(encode, pictures)
    again = encode(round_trip(vae, pictures[1]))
    cosines = first @ second.T
    count = len(first)
    thing = torch.arange(count) // len(STYLES)
    alike, same = thing[:, None] == thing[None], torch.eye(count, dtype=torch.bool)
    mean_same = cosines.diag().mean().item()
    drawing = thing * len(STYLES) + drawing_of(torch.arange(count) % len(STYLES))
    nearest = cosines.argmax(1)
    return {
        "retrieval": (nearest == torch.arange(count)).float().mean().item(),
        "drawing": (drawing[nearest] == drawing).float().mean().item(),
        "same": mean_same,
        "other": cosines[~alike].mean().item(),
        "style": cosines[alike & ~same].mean().item(),
        "round_trip": mean_same - (first * again).sum(1).mean().item(),
    }
