"""The settings in a PNG's file: to be shown, and to be taken again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symdream.diffusion.png import read_settings
from symdream.errors import RequestError
from symdream_apps.upload import check_image

SHOWN = {
    "prompt": "Prompt", "negative_prompt": "Negative prompt", "base": "Base", "seed": "Seed", "steps": "Steps",
    "guidance": "Guidance", "sampler": "Sampler",
}  # fmt: skip


def settings_in(path: Path) -> dict[str, Any]:
    """What the PNG at `path` says of how it was made; `adapters` is always there.

    Raises: RequestError if it is no image, or was not made by symdream.
    """
    path = check_image(path)
    try:
        settings = read_settings(path)
    except (ValueError, OSError):
        settings = None
    if not isinstance(settings, dict) or not isinstance(settings.get("prompt"), str):
        raise RequestError(
            f"{path.name} does not carry settings of symdream.",
            fix="take the PNG itself: messengers and image editors strip them",
        )
    one = [{"name": settings["adapter"], "weight": settings.get("weight", 1)}] if settings.get("adapter") else []
    return {**settings, "adapters": settings.get("adapters", one)}


def table(settings: Mapping[str, Any]) -> str:
    """The settings as a Markdown table."""
    rows = [(label, settings[key]) for key, label in SHOWN.items() if settings.get(key) not in (None, "")]
    rows.append(("Size", f"{settings['width']} × {settings['height']}"))
    for adapter in settings["adapters"]:
        rows.append(("Adapter", f"{adapter['name']} at weight {adapter['weight']:g}"))
    return "\n".join(["| | |", "|:--|:--|", *(f"| {label} | {_cell(value)} |" for label, value in rows)])


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    for mark in "\\|*_`<>[]":
        text = text.replace(mark, "\\" + mark)
    return text
