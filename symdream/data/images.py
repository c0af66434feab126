"""Find photos in a folder and read each as plain RGB (sRGB), whatever it was stored as."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps
from PIL.ExifTags import Base as Exif

from symdream.data.colours import is_converted, to_srgb
from symdream.errors import RequestError, SymdreamError, on_one_line

HEIF = {".heic", ".heif", ".hif"}  # what phones and cameras store
JPEG = {".jpg", ".jpeg", ".jpe", ".jfif"}  # .jfif: what Windows calls pictures of the web
SUFFIXES = {".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif"} | JPEG | HEIF
MIN_SIDE = 32  # below this there is nothing to learn from: sprite's smallest latent is 4 pixels wide
MAX_PIXELS = 100_000_000  # a decompression bomb, or a scan that would not fit into memory several times over
MASK_SUFFIX = "_mask"
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height

LAYOUT = "a flat folder with 3 to 6 photos of one subject: FOLDER/1.jpg, FOLDER/2.jpg, …"


def find_images(folder: Path) -> list[Path]:
    """The image files of `folder` by name, sorted; sub-folders, hidden files and masks are left out.

    Raises: RequestError if the folder is missing, is a file, or holds no image (the message shows the layout).
    """
    folder = Path(folder)
    if not folder.exists():
        raise RequestError(f"No folder {folder}.", fix=f"--images takes {LAYOUT}")
    if not folder.is_dir():
        raise RequestError(f"{folder} is a file, not a folder.", fix=f"--images takes {LAYOUT}")
    # A link that leads nowhere is a photo that somebody counts on: reading it tells which.
    entries = sorted(p for p in folder.iterdir() if (p.is_file() or leads_nowhere(p)) and not p.name.startswith("."))
    images = [p for p in entries if p.suffix.lower() in SUFFIXES and photo_of_mask(p.stem) is None]
    if not images:
        inside = f"{len(entries)} other files" if entries else "nothing"
        folders = sum(p.is_dir() for p in folder.iterdir())
        if folders:
            inside += f" and {folders} folders (sub-folders are not searched)"
        raise RequestError(
            f"No images in {folder}: it holds {inside}.",
            fix=f"--images takes {LAYOUT} ({', '.join(sorted(SUFFIXES))})",
        )
    return images


def leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def photo_of_mask(stem: str) -> str | None:
    """NAME of NAME_mask, in any case: the stem of a mask's photo. None for the stems of other files."""
    return stem[: -len(MASK_SUFFIX)] if stem.lower().endswith(MASK_SUFFIX) else None


@cache
def heif_is_readable() -> bool:
    """Teach Pillow HEIC, which it does not know by itself; False where pi-heif is not installed."""
    try:
        from pi_heif import register_heif_opener
    except ImportError:
        return False
    register_heif_opener()
    return True


def read_image(path: Path) -> Image.Image:
    """Read one image as sRGB: EXIF-rotated upright, alpha on white, 16 bits scaled to 8, first frame of many.

    Raises: RequestError if the file is no image, is cut short, has a side below 32 or more than 100 million pixels.
    """
    return to_rgb(read_with_alpha(path))


def read_with_alpha(path: Path, *, profile: bool = True) -> Image.Image:
    """As `read_image`, but an image with transparency stays RGBA (its alpha is the subject's mask).

    profile: whether a colour profile in the file counts; in a mask, whose numbers are weights, it does not.
    """
    with opened(path) as image:
        image.load()
        image = to_8_bit(ImageOps.exif_transpose(image))
        if not profile:
            image.info.pop("icc_profile", None)
        image = to_srgb(image)
    if min(image.size) < MIN_SIDE:
        raise RequestError(
            f"{path} is {image.width} × {image.height} pixels; each side must have at least {MIN_SIDE}.",
            fix="use the original photo, or remove the file",
        )
    return image


class Header(NamedTuple):
    """What is known of a picture before it is decoded: (width, height) as `read_image` gives it, and whether its
    colours are converted then."""

    size: tuple[int, int]
    converted: bool


def read_header(path: Path) -> Header:
    """Raises: RequestError if the file is no image."""
    with opened(path) as image:
        # Pillow tells a TIFF's size as it is shown already.
        turned = image.format != "TIFF" and image.getexif().get(Exif.Orientation) in TURNED
        return Header(image.size[::-1] if turned else image.size, is_converted(image))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The image file, not decoded yet. What fails while it is read, here or where it is used, is told as a
    RequestError, whatever a decoder raises: Pillow's plugins agree on no kind of error for damaged files."""
    path = Path(path)
    heif = heif_is_readable()
    try:
        with warnings.catch_warnings():
            # Our own limit comes below, with our own words.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            if image.width * image.height > MAX_PIXELS:
                raise RequestError(
                    f"{path} has {image.width} × {image.height} pixels, more than {MAX_PIXELS // 10**6} million.",
                    fix="scale it down first: training uses 512 or 1024 pixels a side",
                )
            yield image
    except SymdreamError:
        raise
    except FileNotFoundError as error:
        if leads_nowhere(path):
            raise RequestError(f"{path} is a link to {path.readlink()}, which is not there.") from error
        raise RequestError(f"No file {path}.") from error
    except Exception as error:
        fix = "open and save it again as PNG or JPEG, or remove it"
        if path.suffix.lower() in HEIF and not heif:
            fix = f"pip install pi-heif; or {fix}"
        what = str(error) or type(error).__name__
        raise RequestError(f"{path} cannot be read as an image: {what}.", fix=fix) from error


def to_8_bit(image: Image.Image) -> Image.Image:
    """16 bits and floats, as they are stored for gray pictures, scaled to 8; other modes stay."""
    if image.mode in ("I;16", "I;16L", "I;16B", "I"):
        # Pillow's convert("L") clips 16-bit values at 255 instead of scaling them.
        return image.convert("I").point(lambda value: value / 257).convert("L")
    if image.mode == "F":
        return image.point(lambda value: value * 255 if max(image.getextrema()) <= 1 else value).convert("L")
    return image


def to_rgb(image: Image.Image) -> Image.Image:
    """Compose RGBA on white; any other mode is converted."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


@dataclass
class Folder:
    """What a look through a photo folder found: the readable images and what is wrong with the others."""

    images: dict[Path, Image.Image] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def read_folder(folder: Path) -> Folder:
    """Read every image of `folder`, gathering all problems instead of ending at the first.

    Raises: RequestError as `find_images` does.
    """
    found = Folder()
    for path in find_images(folder):
        try:
            found.images[path] = read_image(path)
        except RequestError as error:
            found.problems.append(on_one_line(error))
    return found
