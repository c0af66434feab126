import numpy as np
import pytest
from PIL import Image, ImageDraw

from symdream.training.photographs import flat_share, photo_warning


def drawing(background):
    """A shaded ball on a drawn background, as an emoji would be composed."""
    picture = Image.new("RGB", (256, 256), (60, 120, 220))
    pen = ImageDraw.Draw(picture)
    for start in range(0, 256, 32):
        if background == "striped":
            pen.rectangle([start, 0, start + 15, 255], fill=(240, 200, 40))
        if background == "checkered":
            for other in range(start % 64, 256, 64):
                pen.rectangle([start, other, start + 31, other + 31], fill=(240, 200, 40))
    for radius in range(70, 0, -1):
        shade = 255 - 2 * radius
        pen.ellipse([128 - radius, 128 - radius, 128 + radius, 128 + radius], fill=(shade, shade // 2, 30))
    return picture


def photograph(seed=0):
    """Smooth light with a sensor's noise: the two things that drawings lack."""
    random = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, 400), np.linspace(0, 1, 300))
    light = np.stack([90 + 80 * x, 120 + 60 * y, 100 + 50 * x * y], axis=-1)
    return Image.fromarray((light + random.normal(0, 4, light.shape)).clip(0, 255).astype("uint8"))


@pytest.mark.parametrize("background", ["plain", "striped", "checkered"])
def test_drawings_pass_in_silence(background):
    assert flat_share(drawing(background)) > 0.36
    assert photo_warning([drawing(background)] * 4) is None


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_photographs_are_told_what_sprite_is_and_what_sd15_takes(mode):
    pictures = [photograph(seed).convert(mode) for seed in range(3)]
    warning = photo_warning(pictures)
    assert "draws toys" in warning
    assert "--base sd15" in warning
    assert "2.1 GB" in warning  # (859.5 + 83.7 + 123.1) million parameters of 2 bytes
    # At the default batch of 4: UNet and text encoder at 2 bytes, 4 x .89 GB, 1 GB; on a CPU at 4 bytes, VAE and all.
    assert "7 GB of GPU memory" in warning and "12 GB of RAM" in warning


def test_one_photograph_among_drawings_does_not_decide():
    assert photo_warning([drawing("plain"), photograph(), drawing("striped")]) is None
    assert photo_warning([photograph(), photograph(1), drawing("plain")]) is not None


def test_tiny_and_no_images_are_no_error():
    assert photo_warning([]) is None
    assert photo_warning([Image.new("RGB", (1, 1))]) is None
