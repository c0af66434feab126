"""How large a base's pictures are, in pixels a side, from its configs or its file's header: nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symdream.diffusion.architecture import family_of_file, wrong_architecture
from symdream.diffusion.headers import read_header
from symdream.diffusion.names import ALIASES, resolve_name
from symdream.diffusion.original_layout import RESOLUTION
from symdream.diffusion.sizes import KNOWN
from symdream.errors import RequestError

LARGEST = 4096  # pixels a side, four times SDXL's: a config that tells more is none of a base


def known_resolution(name: str) -> int | None:
    """The side of the base `name`; None where it is known only once the base is loaded: one of the hub that has no
    alias, an SD 2.x file, and what is no base."""
    try:
        source = resolve_name(name)
        if source.kind == "embedded":
            return KNOWN[name].resolution
        if source.kind == "hub":
            return next((KNOWN[alias].resolution for alias, repo in ALIASES.items() if repo == source.repo), None)
        if source.kind == "folder":
            unet, vae = (json.loads((source.path / part / "config.json").read_text()) for part in ("unet", "vae"))
            return folder_resolution(unet, vae, source.path)
        family = family_of_file(read_header(source.path).shapes, str(source.path))
        return None if family == "sd2" else RESOLUTION[family]
    # Told when the base is asked for; the last one is of JSON that is nested too deeply.
    except (RequestError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def folder_resolution(unet: Mapping, vae: Mapping, folder: Path) -> int:
    """The side for the configs of a diffusers folder's UNet and VAE.

    Raises: RequestError if the UNet's `sample_size` is none, or height and width and they differ, or the side that it
    gives is larger than LARGEST.
    """
    side = _latent_side(unet["sample_size"], folder) * 2 ** len(vae["block_out_channels"][1:])
    if side > LARGEST:
        raise wrong_architecture(f"one for pictures of more than {LARGEST} pixels a side", str(folder))
    return side


def _latent_side(sample_size: Any, folder: Path) -> int:
    sides = sample_size if isinstance(sample_size, list | tuple) else [sample_size]
    if not sides or any(type(side) is not int or side < 1 or side != sides[0] for side in sides):
        found = f"not one for square pictures: its UNet's sample_size is {sample_size}"
        raise wrong_architecture(found, str(folder))
    return sides[0]
