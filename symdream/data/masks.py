"""Where the subject is: an image's alpha channel, or NAME_mask.png beside it (white = subject)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageChops

from symdream.data.buckets import Cut
from symdream.data.captions import caption_file
from symdream.data.images import MASK_SUFFIX, SUFFIXES, leads_nowhere, photo_of_mask, read_with_alpha
from symdream.errors import RequestError

if TYPE_CHECKING:
    import torch


# Below it not even the brightest pixel is half subject, as in masks that are saved as labels 0 and 1.
FAINTEST_SUBJECT = 128
MISNAMED = re.compile("(.+)[-. ]mask", re.IGNORECASE)

Masks = dict[str, list[Path]]  # the mask files of a folder by the stem of their photos


def masks_in(folder: Path) -> Masks:
    """All files NAME_mask.* in `folder`, also links that lead nowhere: reading them tells. Hidden files are left out,
    such as the ._NAME_mask.png that macOS writes beside files on other systems' disks."""
    found: Masks = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
            continue
        if (stem := photo_of_mask(path.stem)) is not None and (path.is_file() or leads_nowhere(path)):
            found.setdefault(stem, []).append(path)
    return found


def mask_file(photo: Path, masks: Masks | None = None) -> Path | None:
    """NAME_mask.* of NAME.*, or None. Raises: RequestError if there are two.

    masks: `masks_in` of the photo's folder, for those who ask for many photos; a folder is slow to list.
    """
    found = (masks_in(photo.parent) if masks is None else masks).get(photo.stem, [])
    if len(found) > 1:
        raise RequestError(f"{photo} has {len(found)} masks: {', '.join(p.name for p in found)}.", fix="keep one")
    return found[0] if found else None


def lonely_masks(masks: Masks, photos: Iterable[Path]) -> list[Path]:
    """Mask files without a photo of their name: surely misnamed."""
    stems = {photo.stem for photo in photos}
    return [path for stem, paths in masks.items() if stem not in stems for path in paths]


def misnamed_masks(photos: Iterable[Path]) -> dict[Path, str]:
    """Of `photos` those that are called as masks of others are by mistake (NAME-mask, NAME.mask, "NAME mask"), and
    what each should be called. One with a caption is a photo."""
    photos = list(photos)
    stems = {photo.stem for photo in photos}
    found = {photo: MISNAMED.fullmatch(photo.stem) for photo in photos}
    return {
        photo: f"{match[1]}{MASK_SUFFIX}{photo.suffix}"
        for photo, match in found.items()
        if match and match[1] in stems and caption_file(photo) is None
    }


def read_mask(photo: Path, masks: Masks | None = None) -> Image.Image | None:
    """The mask of a photo as L, of its size; the file wins over an alpha channel. None if there is neither.

    masks: as in `mask_file`.
    Raises: RequestError if the mask is of another shape than the photo, or nowhere shows the subject.
    """
    beside = mask_file(photo, masks)
    image = read_with_alpha(photo)
    if beside is not None:
        mask, name = read_mask_file(beside, image.size), beside.name
    elif image.mode == "RGBA" and image.getchannel("A").getextrema()[0] < 255:
        mask, name = image.getchannel("A"), f"the alpha channel of {photo.name}"
    else:
        return None
    brightest = mask.getextrema()[1]
    if brightest < FAINTEST_SUBJECT:
        how = f"nowhere brighter than {brightest} of 255" if brightest else "black all over"
        raise RequestError(f"The mask of {photo} shows no subject: {name} is {how}.", fix="white (255) is the subject")
    return mask


def read_mask_file(path: Path, size: tuple[int, int]) -> Image.Image:
    """The picture of a mask as L, for a photo of `size` (width, height).

    Raises: RequestError if it cannot be read, or is of another shape than the photo.
    """
    mask = as_mask(read_with_alpha(path, profile=False))
    width, height = size
    if abs(mask.width * height - mask.height * width) > max(*mask.size, *size):
        raise RequestError(
            f"{path} is {mask.width} × {mask.height}, its photo {width} × {height} pixels.",
            fix="a mask must have the shape of its photo",
        )
    return mask if mask.size == size else mask.resize(size, Image.Resampling.BILINEAR)


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
