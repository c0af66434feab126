"""Colour profiles of photos, against colour arithmetic written out in helpers.icc and none of a colour library's."""

import numpy as np
import pillow_heif
import pytest
from helpers.icc import ADOBE_GAMMA, ADOBE_RGB, DISPLAY_P3, SRGB, gray_profile, in_srgb, profile
from helpers.runs import tiny_config
from PIL import Image, ImageCms

from symdream.data.class_images import ClassImage
from symdream.data.images import read_header, read_image, read_with_alpha
from symdream.data.masks import read_mask
from symdream.data.photos import read_photos
from symdream.training.defaults import resolve

P3, ADOBE = profile(DISPLAY_P3), profile(ADOBE_RGB, ADOBE_GAMMA)
COLOURS = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def read(path):
    return np.asarray(read_image(path)).astype(float)


@pytest.mark.parametrize(("icc", "space"), [(P3, (DISPLAY_P3,)), (ADOBE, (ADOBE_RGB, ADOBE_GAMMA))])
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_colours_are_those_that_the_profile_means(tmp_path, icc, space, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path, icc_profile=icc, lossless=True)
    assert np.abs(read(path) - in_srgb(COLOURS, *space)).max() <= 1.5
    assert "icc_profile" not in read_image(path).info


@pytest.mark.parametrize("suffix", ["jpg", "heic", "avif"])
def test_photos_of_phones_are_converted_in_every_format(tmp_path, suffix):
    pillow_heif.register_heif_opener()
    path = tmp_path / f"a.{suffix}"
    red = Image.new("RGB", (64, 64), (200, 60, 60))
    red.save(path, format="HEIF" if suffix == "heic" else None, icc_profile=P3, quality=95)
    assert np.abs(read(path) - in_srgb(np.uint8([200, 60, 60]), DISPLAY_P3)).max() <= 4
    assert read_header(path).converted and ClassImage.of(path).converted


@pytest.mark.parametrize("icc", [profile(SRGB), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_photo_in_srgb_is_read_as_without_its_profile_to_the_last_bit(tmp_path, icc, mode):
    image = Image.fromarray(COLOURS).convert(mode)
    for name, more in (("plain", {}), ("tagged", {"icc_profile": icc})):
        image.save(tmp_path / f"{name}.png", **more)
    assert np.array_equal(read(tmp_path / "plain.png"), read(tmp_path / "tagged.png"))
    assert not read_header(tmp_path / "tagged.png").converted


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "L"])
def test_transparency_and_gray_stay_where_they_are(tmp_path, mode):
    alpha = Image.fromarray(COLOURS[..., 0])
    if mode == "P":
        image = Image.fromarray(COLOURS).quantize(20)
        alpha = np.where(np.asarray(image) < 7, 0, 255)
        image.save(tmp_path / "a.png", icc_profile=P3, transparency=bytes([0] * 7))
    else:
        image = Image.fromarray(COLOURS).convert(mode)
        if mode != "L":
            image.putalpha(alpha)
        image.save(tmp_path / "a.png", icc_profile=P3)
    found = read_with_alpha(tmp_path / "a.png")
    expected = in_srgb(np.asarray(image.convert("RGB")), DISPLAY_P3)
    assert np.abs(np.asarray(found.convert("RGB")) - expected).max() <= 1.5
    assert mode == "L" or np.array_equal(found.getchannel("A"), alpha)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_gray_photo_is_read_by_the_curve_of_its_profile(tmp_path, bits):
    gray = np.arange(256, dtype=np.uint8)[None].repeat(64, 0)
    stored = gray if bits == 8 else gray.astype(np.uint16) * 257
    Image.fromarray(stored).save(tmp_path / "a.png", icc_profile=gray_profile(1.5))
    linear = (gray / 255) ** 1.5
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    # Eight bits of a steep curve: the darkest steps of a gray profile come out a little coarser.
    assert np.abs(read(tmp_path / "a.png") - expected[..., None]).max() <= 2
    assert read_header(tmp_path / "a.png").converted


@pytest.mark.parametrize("icc", [b"no profile", P3[:200], gray_profile(1.5)], ids=["text", "cut short", "of gray"])
def test_a_profile_that_cannot_be_used_changes_nothing(tmp_path, icc):
    Image.fromarray(COLOURS).save(tmp_path / "a.png", icc_profile=icc)
    assert np.array_equal(read(tmp_path / "a.png"), COLOURS) and not read_header(tmp_path / "a.png").converted


def test_a_cmyk_photo_without_a_usable_profile_is_converted_as_ever(tmp_path):
    cmyk = Image.fromarray(COLOURS).convert("CMYK")
    cmyk.save(tmp_path / "a.tiff", icc_profile=P3)
    assert np.array_equal(read(tmp_path / "a.tiff"), np.asarray(cmyk.convert("RGB")))


def test_a_masks_numbers_are_weights_and_stay(tmp_path):
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    Image.fromarray(COLOURS[..., 0]).save(tmp_path / "a_mask.png", icc_profile=gray_profile(1.0))
    assert np.array_equal(read_mask(tmp_path / "a.png"), COLOURS[..., 0])


def test_latents_of_wrong_colours_are_not_found_again(tmp_path, tiny_sd1):
    """Names of latents in the cache: that of a photo in sRGB is the one that it always had."""
    from symdream.data.buckets import cuts
    from symdream.data.latents import LatentCache
    from symdream.data.store import Store, content_key
    from symdream.diffusion.base import load_base

    Image.fromarray(COLOURS).save(tmp_path / "plain.png")
    Image.fromarray(COLOURS).save(tmp_path / "wide.png", icc_profile=P3)
    base = load_base(str(tiny_sd1))
    plain, wide = read_photos(resolve(tiny_config(tiny_sd1, tmp_path), base)).photos
    [[cut]] = cuts((64, 64), (64, 64), "center")
    cache = LatentCache(base.vae, Store(tmp_path / "cache"))

    def before(photo):
        settings = {"box": cut.box, "size": cut.size, "flip": False, "dtype": "float32", "device": "cpu"}
        return content_key(image=photo.sha256, vae=cache.vae_hash, **settings)

    assert cache.key(plain.sha256, cut, plain.converted) == before(plain)
    assert cache.key(wide.sha256, cut, wide.converted) != before(wide)
