"""The backgrounds of sprite's language: a colour, plain or with a pattern in a second tone of it.

Colours, tones and sizes were measured on 104 pictures drawn by the base ("a 3d render of a apple on a [pattern]
COLOUR background", 13 colours, 4 patterns, 2 seeds, 128 px), so that the composed photos lie where its own lie.
"""

from __future__ import annotations

import math
import random

import numpy as np
from PIL import Image

COLOURS = {
    "red": (214, 18, 50),
    "orange": (226, 112, 20),
    "yellow": (236, 190, 78),
    "green": (62, 168, 80),
    "teal": (50, 140, 125),
    "blue": (62, 105, 180),
    "navy": (30, 32, 68),
    "purple": (135, 34, 150),
    "pink": (254, 114, 158),
    "brown": (103, 72, 46),
    "white": (242, 232, 226),
    "gray": (134, 140, 128),
    "black": (34, 30, 32),
}
PATTERNS = ("plain", "striped", "checkered", "dotted")

LIGHT = {"yellow", "pink", "white", "gray"}  # their second tone is darker, the others' is lighter
OVERSAMPLING = 4  # subpixels along each axis: smooth edges


def second_tone(colour: str) -> np.ndarray:
    base = np.array(COLOURS[colour], dtype=float)
    return base * 0.68 if colour in LIGHT else base + 0.4 * (255 - base)


def draw_background(rng: random.Random, size: int, colour: str, pattern: str) -> Image.Image:
    """An RGB picture, size x size. Lengths below are in pixels of a 256-pixel picture."""
    step = 256 / (size * OVERSAMPLING)
    y, x = (np.mgrid[: size * OVERSAMPLING, : size * OVERSAMPLING] + 0.5) * step
    shift_x, shift_y = rng.uniform(0, 256), rng.uniform(0, 256)
    x, y = x + shift_x, y + shift_y
    if pattern == "plain":
        on = np.zeros_like(x, dtype=bool)
    elif pattern == "striped":
        angle, width = rng.uniform(0, math.pi), rng.uniform(20, 32)
        on = (x * math.cos(angle) + y * math.sin(angle)) // width % 2 == 0
    elif pattern == "checkered":
        cell = rng.uniform(20, 32)
        on = (x // cell + y // cell) % 2 == 0
    elif pattern == "dotted":
        pitch = rng.uniform(34, 48)
        row = y // (pitch / 2)
        along = (x + (row % 2) * pitch / 2) % pitch - pitch / 2
        across = y % (pitch / 2) - pitch / 4
        on = along**2 + across**2 < (0.2 * pitch) ** 2
    else:
        raise ValueError(f"pattern is {pattern!r}, must be one of {', '.join(PATTERNS)}")
    amount = on.reshape(size, OVERSAMPLING, size, OVERSAMPLING).mean(axis=(1, 3))[..., None]
    picture = np.array(COLOURS[colour], dtype=float) * (1 - amount) + second_tone(colour) * amount
    return Image.fromarray(picture.round().astype(np.uint8))
