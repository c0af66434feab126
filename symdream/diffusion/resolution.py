"""How large a base's pictures are, in pixels a side, from its configs or its file's header: nothing is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from symdream.diffusion.architecture import family_of_file, wrong_architecture
from symdream.diffusion.headers import read_header
from symdream.diffusion.names import resolve_name
from symdream.diffusion.original_layout import RESOLUTION
from symdream.diffusion.sizes import KNOWN
from symdream.errors import RequestError


def known_resolution(name: str) -> int | None:
    """The side of the base `name`; None where it is known only once the base is loaded: one of the hub, an SD 2.x
    file, and what is no base."""
    if name in KNOWN:
        return KNOWN[name].resolution
    try:
        source = resolve_name(name)
        if source.kind == "folder":
            unet, vae = (json.loads((source.path / part / "config.json").read_text()) for part in ("unet", "vae"))
            return folder_resolution(unet, vae, source.path)
        if source.kind == "file":
            family = family_of_file(read_header(source.path).shapes, str(source.path))
            return None if family == "sd2" else RESOLUTION[family]
    except (RequestError, OSError, ValueError, LookupError, TypeError):  # told when the base is asked for
        pass
    return None


def folder_resolution(unet: Mapping, vae: Mapping, folder: Path) -> int:
    """The side for the configs of a diffusers folder's UNet and VAE.

    Raises: RequestError if the UNet's `sample_size` is none, or height and width and they differ.
    """
    return _latent_side(unet["sample_size"], folder) * 2 ** (len(vae["block_out_channels"]) - 1)


def _latent_side(sample_size: int | Sequence[int] | None, folder: Path) -> int:
    sides = {sample_size} if isinstance(sample_size, int) else set(sample_size or ())
    if len(sides) != 1:
        found = f"not one for square pictures: its UNet's sample_size is {sample_size}"
        raise wrong_architecture(found, str(folder))
    return sides.pop()
