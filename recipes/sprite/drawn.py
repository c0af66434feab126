"""What score.py says of the pictures that a base draws: does each show what its prompt asked for?

Zero-shot, by the CLIP of a judge that stays the same for all bases: of captions that differ in one word, is the
prompt's the nearest to the picture? Words: 13 colours, 4 patterns, 5 styles, and the thing among 20 (19 others drawn by
the seed, the same for every base); with two things, each among 20, and both must be right. `ceiling` is the same
question about true compositions of the same scenes: no base can be expected above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from recipes.sprite.compose import Composer, Scene
from recipes.sprite.language import COLOURS, PATTERNS, STYLES, caption
from symdream.diffusion.base import Base
from symdream.diffusion.sampling import sample
from symdream.metrics.encoders import ClipEncoder

CHOICES = 20
TWO_SHARE = 0.2  # of the prompts ask for two things


def scenes_to_ask(composer: Composer, count: int, seed: int) -> Scene:
    """The first four fifths ask for one thing, the rest for two."""
    generator = torch.Generator(composer.device).manual_seed(seed)
    pairs = round(TWO_SHARE * count)
    one = composer.draw(count - pairs, two=0, generator=generator)
    return Scene.cat([one, composer.draw(pairs, two=1, generator=generator)]).said_in_full()


def questions(composer: Composer, scene: Scene, seed: int) -> list[dict[str, list[str]]]:
    """For each picture, its captions with one word changed; the right one comes first.

    Keys: style, colour, pattern and thing; with two things also thing 2.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    asked = []
    for style, things, colour, pattern in zip(
        *(getattr(scene, n).tolist() for n in ("style", "things", "colour", "pattern")), strict=True
    ):
        names = [composer.things[i] for i in things if i >= 0]
        ground = (COLOURS[colour], PATTERNS[pattern])
        true = caption(STYLES[style], names, ground)
        words = {
            "style": [caption(other, names, ground) for other in STYLES],
            "colour": [caption(STYLES[style], names, (other, ground[1])) for other in COLOURS],
            "pattern": [caption(STYLES[style], names, (ground[0], other)) for other in PATTERNS],
        }
        for slot, key in zip(range(len(names)), ("thing", "thing 2"), strict=False):
            order = torch.randperm(len(composer.things), generator=generator).tolist()
            others = [composer.things[i] for i in order if composer.things[i] not in names][: CHOICES - 1]
            words[key] = [caption(STYLES[style], [*names[:slot], o, *names[slot + 1 :]], ground) for o in others]
        asked.append({key: [true, *(text for text in texts if text != true)] for key, texts in words.items()})
    return asked


def embed_captions(judge: ClipEncoder, asked: Sequence[dict[str, list[str]]]) -> tuple[dict[str, int], Tensor]:
    """Every caption's row, and the rows (N, D)."""
    texts = list(dict.fromkeys(text for words in asked for captions in words.values() for text in captions))
    return {text: i for i, text in enumerate(texts)}, judge.texts(texts)


def answers(
    judge: ClipEncoder,
    images: Sequence[Image.Image],
    asked: Sequence[dict[str, list[str]]],
    texts: tuple[dict[str, int], Tensor],
) -> dict[str, float]:
    """Accuracy of each word ("thing" of pictures with one thing, "two things" of the others, the rest of all), and
    under "KEY, probability" the judge's mean probability of the right word, which moves before the accuracy does."""
    place, embedded = texts
    pictures = judge.images(images)
    scale = judge.model.logit_scale.exp().item()
    right: dict[str, list[float]] = {}
    sure: dict[str, list[float]] = {}

    def ask(picture: Tensor, captions: list[str]) -> tuple[bool, float]:
        logits = scale * embedded[[place[text] for text in captions]] @ picture
        return logits.argmax().item() == 0, logits.softmax(0)[0].item()

    for picture, words in zip(pictures, asked, strict=True):
        said = {key: ask(picture, captions) for key, captions in words.items()}
        if "thing 2" in said:
            both = [said.pop("thing"), said.pop("thing 2")]
            said["two things"] = all(hit for hit, _ in both), both[0][1] * both[1][1]
        for key, (hit, probability) in said.items():
            right.setdefault(key, []).append(float(hit))
            sure.setdefault(key, []).append(probability)
    result = {key: sum(values) / len(values) for key, values in right.items()}
    return result | {f"{key}, probability": sum(values) / len(values) for key, values in sure.items()}


def true_pictures(composer: Composer, scene: Scene) -> list[Image.Image]:
    pixels = ((composer.render(scene) + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()
    return [Image.fromarray(picture.numpy()) for picture in pixels]


def text_to_image(
    base: Base, judge: ClipEncoder, composer: Composer, count: int, seed: int, keep: Path | None = None
) -> dict[str, float]:
    """`answers` about `count` pictures that the base draws, and the ceilings; `keep`: a sheet of the first 64."""
    scene = scenes_to_ask(composer, count, seed)
    prompts = composer.captions(scene)
    images = sample(base, prompts, [seed + i for i in range(count)], batch_size=32 if base.device.type == "cuda" else 4)
    asked = questions(composer, scene, seed)
    texts = embed_captions(judge, asked)
    found = answers(judge, images, asked, texts)
    ceiling = answers(judge, true_pictures(composer, scene), asked, texts)
    if keep:
        contact_sheet(images[:64]).save(keep)
    return found | {f"{key}, ceiling": value for key, value in ceiling.items() if not key.endswith("probability")}


def contact_sheet(images: Sequence[Image.Image], across: int = 8) -> Image.Image:
    width, height = images[0].size
    sheet = Image.new("RGB", (across * width, -(-len(images) // across) * height))
    for i, image in enumerate(images):
        sheet.paste(image, (i % across * width, i // across * height))
    return sheet
