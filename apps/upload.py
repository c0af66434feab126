"""Checks of what a browser sent: really an image, really safetensors, and of a size that can be handled."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from symdream.data.images import MAX_PIXELS as READABLE_PIXELS
from symdream.data.images import heif_is_readable
from symdream.errors import RequestError
from symdream.interop.grouping import group_keys
from symdream.interop.header import read_adapter_header

MAX_FILE_BYTES = 2 * 10**9  # of any upload (gradio ends the transfer there): an SDXL LoRA of rank 256 has 1.7 GB
MAX_IMAGE_BYTES = 50 * 10**6
MAX_PIXELS = min(64_000_000, READABLE_PIXELS)
IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")

ADAPTER = (
    "give a LoRA or DoRA of diffusers, PEFT, kohya, ComfyUI or symdream as .safetensors; if this is one, get it again"
)

# What Pillow and its plug-ins say of a broken image.
UNREADABLE = (OSError, SyntaxError, ValueError, RuntimeError, EOFError, Image.DecompressionBombError)


def check_image(path: Path, name: str | None = None) -> Path:
    """`path`, if it is an image by its content (not by its name) and not too large. Decodes no pixel of a large one.

    Raises: RequestError naming the file (as `name`) and what is wrong.
    """
    path, name = Path(path), name or Path(path).name
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise RequestError(f"{name} is not there any more.", fix="choose another, or give it again") from None
    if size > MAX_IMAGE_BYTES:
        raise RequestError(
            f"{name} has {size / 1e6:.0f} MB; an image may have {MAX_IMAGE_BYTES / 1e6:.0f} MB.",
            fix="save it smaller: training uses 512 or 1024 pixels a side",
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit comes below
            formats = (*IMAGE_FORMATS, "HEIF") if heif_is_readable() else IMAGE_FORMATS
            with Image.open(path, formats=formats) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise _too_many_pixels(name, width, height)
                image.load()
    except Image.DecompressionBombError:
        raise RequestError(
            f"{name} has more than {MAX_PIXELS / 1e6:.0f} million pixels.", fix="scale it down first"
        ) from None
    except UNREADABLE as error:
        kind = "is not an image" if isinstance(error, UnidentifiedImageError) else "is a damaged image"
        fix = "give a PNG, JPEG, WebP or HEIC file"
        raise RequestError(f"{name} {kind}, whatever its name says.", fix=fix) from None
    return path


def _too_many_pixels(name: str, width: int, height: int) -> RequestError:
    return RequestError(
        f"{name} has {width} × {height} pixels; an image may have {MAX_PIXELS / 1e6:.0f} million.",
        fix="scale it down first: training uses 512 or 1024 pixels a side",
    )


def check_safetensors(path: Path, name: str | None = None) -> Path:
    """`path`, if it is a whole .safetensors file with a whole adapter in it; only its header is read.

    Raises: RequestError (a pickle, a renamed or cut file, no float tensors, no adapter or part of one, too large).
    """
    path, name = Path(path), name or Path(path).name
    if path.suffix.lower() != ".safetensors" and not _is_pickle(name):
        raise RequestError(f"{name} is no .safetensors file.", fix="give the adapter as .safetensors")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise RequestError(f"{name} has more than {MAX_FILE_BYTES / 1e9:.0f} GB.", fix="an adapter is smaller")
    try:
        group_keys(read_adapter_header(path).tensors, None, path)
    except RequestError as error:
        # Where an upload lies tells a browser nothing, and it has no command line to fetch the file again with.
        raise RequestError(error.what, where=None if error.where == str(path) else error.where, fix=ADAPTER) from None
    return path


def _is_pickle(name: str) -> bool:
    from symdream.diffusion.names import PICKLES

    return name.lower().endswith(PICKLES)  # refused by read_adapter_header, with the reason
