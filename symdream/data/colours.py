"""Colours of photos as the base knows them: sRGB, whatever space a camera or a program stored them in.

Phones store Display P3, cameras and photo programs also Adobe RGB or CMYK, and say so by an ICC profile in the file.
The same numbers mean other colours there: a plain conversion would train paler ones.
"""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

from PIL import Image, ImageChops, ImageCms

MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # how Pillow names what a profile is of
SAME = 3  # of 255: makers' sRGB profiles differ from each other by about as much as rounding does


def is_converted(image: Image.Image) -> bool:
    """Whether `to_srgb` changes colours of `image`; its pixels need not be decoded for this."""
    return _conversion(image) is not None


def to_srgb(image: Image.Image) -> Image.Image:
    """RGB or RGBA with the colours that the image's profile means, relative colorimetric, alpha as it is.

    An image of 8 bits without a profile, with sRGB's, or with one that cannot be used is converted as Pillow does.
    """
    transparent = image.has_transparency_data
    conversion = _conversion(image)
    if conversion is None:
        plain = image.convert("RGBA" if transparent else "RGB")
    else:
        transform, mode = conversion
        whole = image.convert("RGBA") if transparent else image
        plain = ImageCms.applyTransform(whole.convert(mode), transform)
        if transparent:
            plain.putalpha(whole.getchannel("A"))
    plain.info.pop("icc_profile", None)  # saved with it, the picture would be converted a second time
    return plain


def _conversion(image: Image.Image) -> tuple[ImageCms.ImageCmsTransform, str] | None:
    """The way from the image's profile to sRGB, and the mode it starts from; None where there is nothing to do."""
    profile = image.info.get("icc_profile")
    if not profile:
        return None
    transform, mode = _transform(profile)
    gray = image.mode in ("1", "L", "LA", "La") or image.mode.startswith(("I", "F"))
    stored = "L" if gray else "CMYK" if image.mode == "CMYK" else "RGB"
    # A gray picture may carry a profile of RGB, which its gray is one colour of; others must be of the same kind.
    fits = mode == stored or (mode, stored) == ("RGB", "L")
    return (transform, mode) if transform is not None and fits else None


@lru_cache(maxsize=8)
def _transform(profile: bytes) -> tuple[ImageCms.ImageCmsTransform | None, str | None]:
    """From an ICC profile to sRGB, and the mode it is of; None where that changes nothing or it cannot be used."""
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        mode = MODES.get(source.profile.xcolor_space.strip())
        if mode is None:
            return None, None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
        if mode != "CMYK" and _changes_nothing(transform, mode):
            return None, mode
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None, None
    return transform, mode


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """By all grays, and 17 steps of each colour: what a profile does tells more than what it is called."""
    steps = range(0, 256, 1 if mode == "L" else 15)
    values = steps if mode == "L" else [value for r in steps for g in steps for b in steps for value in (r, g, b)]
    colours = Image.frombytes(mode, (len(values) // len(mode), 1), bytes(values))
    changed = ImageChops.difference(ImageCms.applyTransform(colours, transform), colours.convert("RGB"))
    return max(high for _, high in changed.getextrema()) <= SAME
