"""Where the subject is: an image's alpha channel, or NAME_mask.png beside it (white = subject)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

from symdream.data.buckets import Cut
from symdream.data.images import MASK_SUFFIX, SUFFIXES, read_with_alpha
from symdream.errors import RequestError

if TYPE_CHECKING:
    import torch


def mask_file(photo: Path) -> Path | None:
    """NAME_mask.* of NAME.*, or None. Raises: RequestError if there are two."""
    found = sorted(
        p for p in photo.parent.glob("*" + MASK_SUFFIX + ".*")
        if p.stem == photo.stem + MASK_SUFFIX and p.suffix.lower() in SUFFIXES
    )  # fmt: skip
    if len(found) > 1:
        raise RequestError(f"{photo} has {len(found)} masks: {', '.join(p.name for p in found)}.", fix="keep one")
    return found[0] if found else None


def lonely_masks(folder: Path) -> list[Path]:
    """Mask files in `folder` without a photo of their name: surely misnamed."""
    files = [p for p in sorted(folder.iterdir()) if p.is_file() and p.suffix.lower() in SUFFIXES]
    photos = {p.stem for p in files if not p.stem.endswith(MASK_SUFFIX)}
    return [p for p in files if p.stem.endswith(MASK_SUFFIX) and p.stem.removesuffix(MASK_SUFFIX) not in photos]


def read_mask(photo: Path) -> Image.Image | None:
    """The mask of a photo as L, of its size; the file wins over an alpha channel. None if there is neither.

    Raises: RequestError if the mask is of another shape than the photo, or black all over.
    """
    beside = mask_file(photo)
    image = read_with_alpha(photo)
    if beside is not None:
        mask = read_mask_file(beside)
        name = beside.name
        if abs(mask.width * image.height - mask.height * image.width) > max(*mask.size, *image.size):
            raise RequestError(
                f"{beside} is {mask.width} × {mask.height}, its photo {image.width} × {image.height} pixels.",
                fix="a mask must have the shape of its photo",
            )
        if mask.size != image.size:
            mask = mask.resize(image.size, Image.Resampling.BILINEAR)
    elif image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255:
        mask, name = image.getchannel("A"), f"the alpha channel of {photo.name}"
    else:
        return None
    if mask.getextrema()[1] == 0:
        raise RequestError(f"The mask of {photo} is empty: {name} is black all over.", fix="white is the subject")
    return mask


def read_mask_file(path: Path) -> Image.Image:
    """The picture of a mask as L. Raises: RequestError if it cannot be read."""
    return as_mask(read_with_alpha(path, profile=False))


def as_mask(image: Image.Image) -> Image.Image:
    """A mask file as L. Where it is transparent is no subject, whether white is painted on nothing or the subject is
    cut out in its own colours."""
    grey = image.convert("L")
    if image.mode != "RGBA" or image.getchannel("A").getextrema()[0] == 255:
        return grey
    alpha = image.getchannel("A")
    shades = grey.histogram(alpha.point(lambda value: 255 * (value > 127)))
    painted = sum(shades[224:]) > 0 and sum(shades[32:224]) < 0.1 * sum(shades)  # black and white
    return ImageChops.multiply(grey, alpha) if painted else alpha


def latent_weights(mask: Image.Image | None, cut: Cut, vae_factor: int, strength: float) -> torch.Tensor:
    """Weights (1, h, w) of the loss at each latent pixel: 1 - strength · (1 - m).

    m in [0, 1] is the mask's mean over the pixels that the latent pixel covers; without a mask it is 1.
    """
    import torch  # not above: the command line checks masks without it

    width, height = cut.size[0] // vae_factor, cut.size[1] // vae_factor
    if mask is None:
        return torch.ones(1, height, width)
    small = mask.crop(cut.box).resize((width, height), Image.Resampling.BOX)
    if cut.flip:
        small = small.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    m = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8).view(1, height, width).float() / 255
    return 1 - strength * (1 - m)
