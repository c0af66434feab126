"""PNG files that remember how they were made.

Text chunk `symdream`: JSON with prompt, negative_prompt, seed, steps, guidance, sampler, width, height, base; adapter
and weight of one adapter, or adapters, a list with name and weight of each.
Text chunk `parameters`: the same in A1111's line format, which image browsers of the field show. `Adapters` is a key of
ours: no <lora:NAME:WEIGHT> is added to the prompt, since a run is no file that A1111 could load by that name.
Text chunk `symdream-grid`: this is an overview of such pictures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from symdream.ui import say

KEY = "symdream"
GRID = "symdream-grid"


def save_png(image: Image.Image, path: Path, settings: Mapping[str, Any]) -> None:
    """Write `image` to `path` with its settings in the file."""
    info = PngInfo()
    info.add_itxt(KEY, json.dumps(dict(settings), ensure_ascii=False))
    info.add_itxt("parameters", as_parameters(settings))
    image.save(path, format="PNG", pnginfo=info)


def as_parameters(settings: Mapping[str, Any]) -> str:
    """prompt, negative prompt, then one line of `Name: value` pairs; values that would break it are quoted."""
    lines = [settings["prompt"]]
    if settings.get("negative_prompt"):
        lines.append(f"Negative prompt: {settings['negative_prompt']}")
    pairs = {
        "Steps": settings["steps"],
        "Sampler": settings["sampler"],
        "CFG scale": settings["guidance"],
        "Seed": settings["seed"],
        "Size": f"{settings['width']}x{settings['height']}",
        "Model": settings["base"],
    }
    if adapters := adapters_of(settings):
        pairs["Adapters"] = ", ".join(f"{name}: {weight:g}" for name, weight in adapters)
    lines.append(", ".join(f"{name}: {quoted(str(value))}" for name, value in pairs.items()))
    return "\n".join(lines)


def adapters_of(settings: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Name and weight of each adapter that a picture was drawn with."""
    if several := settings.get("adapters"):
        return [(adapter["name"], adapter["weight"]) for adapter in several]
    return [(settings["adapter"], settings["weight"])] if settings.get("adapter") else []


def quoted(value: str) -> str:
    """`value` as A1111 writes and reads it in a line of pairs: as JSON where its own punctuation is in it."""
    return json.dumps(value, ensure_ascii=False) if set(value) & set(",:\n") else value


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings in a PNG that `save_png` wrote, or None if there are none."""
    with Image.open(path) as image:
        image.load()
        text = getattr(image, "text", {}).get(KEY)
    return json.loads(text) if text else None


def save_overview(image: Image.Image, path: Path) -> None:
    """Write `image` to `path` with a mark that symdream wrote it; `read_settings` finds none in it."""
    info = PngInfo()
    info.add_itxt(GRID, "1")
    image.save(path, format="PNG", pnginfo=info)


def is_ours(path: Path) -> bool:
    """True if `save_png` or `save_overview` wrote `path`; False for anything else, damaged files included."""
    try:
        # `info` and not `text`, which would decode the pixels for chunks behind them.
        with Image.open(path, formats=["PNG"]) as image:
            return KEY in image.info or GRID in image.info
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def intact(file: Path) -> bool:
    """True if `file` is a whole PNG (its own checksums hold)."""
    try:
        with Image.open(file) as image:
            image.verify()
        return True
    except FileNotFoundError:
        return False
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        say(f"note: {file} is damaged ({error}); it is drawn again.")
        return False
