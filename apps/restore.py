"""The settings in a PNG's file: to be shown, and to be taken again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symdream.diffusion.png import read_settings
from symdream.errors import RequestError
from symdream_apps.text import no_markdown
from symdream_apps.upload import check_image


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


def describe(settings: Mapping[str, Any]) -> str:
    """The settings in a few words of Markdown."""
    facts = [
        f"seed {settings.get('seed')}",
        f"{settings.get('steps')} steps",
        f"guidance {settings.get('guidance')}",
        f"sampler {settings.get('sampler')}",
        f"{settings.get('width')} × {settings.get('height')}",
        str(settings.get("base")),
        *(f"{x['name']} × {x['weight']:g}" for x in settings["adapters"]),
    ]
    lines = [f"**{no_markdown(settings['prompt'])}**"]
    if settings.get("negative_prompt"):
        lines.append(f"not: {no_markdown(settings['negative_prompt'])}")
    return "  \n".join([*lines, no_markdown(" · ".join(facts))])
