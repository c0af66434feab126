import os

import numpy as np
import pytest
import torch
from helpers.runs import tiny_config
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from symdream.data.buckets import cuts
from symdream.data.images import find_images
from symdream.data.masks import latent_weights, lonely_masks, mask_file, masks_in, misnamed_masks, read_mask
from symdream.data.photos import read_photos
from symdream.errors import Problems, RequestError


def photo(path, size=(64, 48), mode="RGB"):
    Image.new(mode, size, "red").save(path)
    return path


def test_a_photo_without_mask_has_none(tmp_path):
    assert read_mask(photo(tmp_path / "a.png")) is None
    assert read_mask(photo(tmp_path / "opaque.png", mode="RGBA")) is None


def test_the_alpha_channel_is_the_mask_and_a_file_wins_over_it(tmp_path):
    image = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 48))
    image.save(tmp_path / "a.png")
    assert np.asarray(read_mask(tmp_path / "a.png")).mean() == 127.5
    Image.new("L", (64, 48), 255).save(tmp_path / "a_mask.png")
    assert np.asarray(read_mask(tmp_path / "a.png")).min() == 255


def test_an_alpha_channel_that_is_nowhere_quite_empty_is_a_mask_too(tmp_path):
    image = Image.new("RGBA", (64, 48), (255, 0, 0, 255))
    image.paste((255, 0, 0, 40), (0, 0, 32, 48))
    image.save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").getextrema() == (40, 255)


def test_transparent_parts_of_a_mask_file_are_no_subject(tmp_path):
    path = photo(tmp_path / "a.png")
    left = (0, 0, 32, 48)
    painted = Image.new("RGBA", (64, 48), (255, 255, 255, 0))  # white painted on nothing, a bit of it taken away again
    painted.paste((255, 255, 255, 255), left)
    painted.paste((0, 0, 0, 255), (0, 0, 16, 48))
    cut_out = Image.new("RGBA", (64, 48), (0, 0, 0, 0))  # the subject in its own colours
    cut_out.paste((90, 140, 60, 255), left)
    for mask, share in ((painted, 1 / 4), (cut_out, 1 / 2)):
        mask.save(tmp_path / "a_mask.png")
        assert np.asarray(read_mask(path)).mean() == 255 * share


def test_a_mask_saved_as_labels_0_and_1_is_refused(tmp_path):
    path = photo(tmp_path / "a.png")
    mask = Image.new("L", (64, 48), 0)
    mask.paste(1, (0, 0, 32, 48))
    mask.save(tmp_path / "a_mask.png")
    with pytest.raises(RequestError, match="nowhere brighter than 1 of 255"):
        read_mask(path)


def test_a_mask_may_be_of_another_file_type_and_size_but_not_shape(tmp_path):
    path = photo(tmp_path / "a.png")
    Image.new("L", (128, 96), 255).save(tmp_path / "a_mask.JPG", "JPEG")
    assert mask_file(path).name == "a_mask.JPG" and read_mask(path).size == (64, 48)
    (tmp_path / "a_mask.JPG").unlink()
    Image.new("L", (96, 128), 255).save(tmp_path / "a_mask.png")
    with pytest.raises(RequestError, match="96 × 128"):
        read_mask(path)


def test_a_mask_that_was_halved_to_whole_pixels_has_its_photos_shape(tmp_path):
    path = photo(tmp_path / "a.png", (151, 101))
    Image.new("L", (76, 51), 255).save(tmp_path / "a_mask.png")
    assert read_mask(path).size == (151, 101)


def test_an_empty_mask_two_masks_and_a_lonely_mask_are_named(tmp_path):
    path = photo(tmp_path / "a.png")
    Image.new("L", (64, 48), 0).save(tmp_path / "a_mask.png")
    with pytest.raises(RequestError, match="black all over"):
        read_mask(path)
    Image.new("L", (64, 48), 9).save(tmp_path / "a_mask.webp")
    with pytest.raises(RequestError, match="2 masks"):
        read_mask(path)
    assert lonely_masks(masks_in(tmp_path), [path]) == []
    path.unlink()
    assert [p.name for p in lonely_masks(masks_in(tmp_path), [])] == ["a_mask.png", "a_mask.webp"]


@pytest.mark.parametrize("name", ["a_mask.png", "a_MASK.PNG", "a_Mask.jfif"])
def test_a_mask_is_one_however_its_ending_is_written(tmp_path, name):
    path, mask = photo(tmp_path / "a.png"), tmp_path / name
    Image.new("L", (64, 48), 255).save(mask, format="PNG")
    assert find_images(tmp_path) == [path] and mask_file(path) == mask
    assert read_mask(path).getpixel((0, 0)) == read_mask(path, masks_in(tmp_path)).getpixel((0, 0)) == 255


def test_a_misnamed_mask_is_refused_and_told_its_name(tmp_path):
    for name in ("00", "01", "02", "unmask", "carnival mask", "00-mask", "01.mask", "02 MASK"):
        photo(tmp_path / f"{name}.png")
    with pytest.raises(Problems) as caught:
        tiny_config("sprite", tmp_path)
    told = [problem.message for problem in caught.value.problems]
    assert len(told) == 3 == len(misnamed_masks(find_images(tmp_path)))
    for mask, name in (("00-mask", "00_mask"), ("01.mask", "01_mask"), ("02 MASK", "02_mask")):
        assert any(f"{mask}.png seems to be a mask" in one and f"call it {name}.png" in one for one in told)


def test_a_photo_with_a_caption_of_its_own_is_no_misnamed_mask(tmp_path):
    for name in ("dog", "cat", "dog mask"):
        photo(tmp_path / f"{name}.png")
    with pytest.raises(Problems, match="a photo needs another name, or a caption"):
        tiny_config("sprite", tmp_path)
    (tmp_path / "dog mask.txt").write_text("a {subject} that wears a mask")
    assert tiny_config("sprite", tmp_path)


def test_what_macos_writes_beside_masks_is_no_mask(tmp_path):
    for name in ("0", "1", "2"):
        photo(tmp_path / f"{name}.png")
        Image.new("L", (64, 48), 255).save(tmp_path / f"{name}_mask.png")
        (tmp_path / f"._{name}.png").write_bytes(b"\0\5\x16\7")
        (tmp_path / f"._{name}_mask.png").write_bytes(b"\0\5\x16\7")
    assert masks_in(tmp_path) == {name: [tmp_path / f"{name}_mask.png"] for name in ("0", "1", "2")}
    assert tiny_config("sprite", tmp_path)


def test_a_mask_that_is_a_link_to_nowhere_is_told(tmp_path):
    for name in ("0", "1", "2"):
        photo(tmp_path / f"{name}.png")
    (tmp_path / "1_mask.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(Problems, match="1_mask.png is a link to .*gone.png, which is not there"):
        tiny_config("sprite", tmp_path)


def test_the_folder_is_listed_once_for_the_masks_of_many_photos(tmp_path, monkeypatch):
    for number in range(12):
        photo(tmp_path / f"{number}.png")
        Image.new("L", (64, 48), 255).save(tmp_path / f"{number}_mask.png")
    listed = []
    for name in ("listdir", "scandir"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda path, real=real: listed.append(path) or real(path))
    config = tiny_config("sprite", tmp_path)
    config.subject.template = "a {subject}"
    assert all(one.mask for one in read_photos(config).photos)
    assert len(listed) < 12, "as often for many photos as for one"


@settings(deadline=None)
@given(strength=st.floats(0, 1), seed=st.integers(0, 99), flip=st.booleans())
def test_weights_are_one_minus_strength_times_what_the_mask_leaves_out(strength, seed, flip):
    pixels = np.random.default_rng(seed).integers(0, 256, (64, 64), dtype=np.uint8)
    cut = cuts((64, 64), (64, 64), "center", flip=True)[0][flip]
    weights = latent_weights(Image.fromarray(pixels), cut, 8, strength)
    seen = pixels[:, ::-1] if flip else pixels
    m = torch.tensor(seen / 255.0).view(8, 8, 8, 8).mean(dim=(1, 3))  # rows and columns inside each latent pixel
    assert weights.shape == (1, 8, 8)
    # Pillow rounds each mean to 8 bits, once for each direction.
    torch.testing.assert_close(weights[0].double(), 1 - strength * (1 - m), atol=1.1 / 255, rtol=0)


def test_without_a_mask_every_latent_pixel_counts_one():
    [[cut]] = cuts((100, 64), (96, 64), "center")
    assert torch.equal(latent_weights(None, cut, 8, 1.0), torch.ones(1, 8, 12))
