import io
import subprocess
import sys

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from symdream.data import images
from symdream.data.class_images import ClassImage
from symdream.data.images import find_images, read_folder, read_header, read_image
from symdream.errors import RequestError


def gradient(mode="RGB", size=(64, 48)):
    ramp = np.linspace(0, 255, size[0], dtype=np.uint8)[None].repeat(size[1], 0)
    return Image.fromarray(ramp).convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "1", "YCbCr", "LA", "RGBA", "PA"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "PA": "tif"}.get(mode, "png")
    path = tmp_path / f"a.{suffix}"
    if mode == "PA":
        gradient("P").save(path, transparency=0)
    else:
        gradient(mode).save(path)
    image = read_image(path)
    assert image.mode == "RGB" and image.size == (64, 48)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    read = np.asarray(read_image(tmp_path / "deep.png"))[..., 0].astype(float)
    assert np.abs(read - values / 257).max() <= 1


def test_transparency_is_composed_on_white(tmp_path):
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 32, 64))
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert read.getpixel((5, 5)) == (0, 0, 255) and read.getpixel((60, 5)) == (255, 255, 255)


def test_exif_rotation_is_applied(tmp_path):
    image = gradient()
    exif = image.getexif()
    exif[0x0112] = 6  # shown rotated by 90° clockwise
    image.save(tmp_path / "a.jpg", exif=exif)
    read = read_image(tmp_path / "a.jpg")
    assert read.size == (48, 64)
    assert read.getpixel((20, 0))[0] < 20 and read.getpixel((20, 63))[0] > 235


@pytest.mark.parametrize("suffix", ["heic", "HEIF", "hif", "avif", "jpg", "JPE", "jfif"])
def test_photos_as_phones_store_them_are_read_whatever_their_names(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "avif":
        gradient().save(path, quality=95)
    else:
        # Another library writes what ours reads.
        pillow_heif.from_pillow(gradient()).save(path, format="HEIF", quality=95)
    assert find_images(tmp_path) == [path]
    read = np.asarray(read_image(path)).astype(int)
    assert np.abs(read - np.asarray(gradient().convert("RGB"))).mean() < 3


def test_a_phones_photo_lies_as_it_was_held(tmp_path):
    image = gradient()
    exif = image.getexif()
    exif[0x0112] = 6
    pillow_heif.register_heif_opener()
    image.convert("RGB").save(tmp_path / "a.heic", format="HEIF", exif=exif.tobytes(), quality=95)
    read = read_image(tmp_path / "a.heic")
    assert read.size == (48, 64) and read.getpixel((20, 0))[0] < 20 and read.getpixel((20, 63))[0] > 235


def test_without_the_reader_a_heic_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "heif_is_readable", lambda: False)
    (tmp_path / "a.heic").write_bytes(b"no image")
    with pytest.raises(RequestError) as caught:
        read_image(tmp_path / "a.heic")
    assert "pip install pi-heif" in caught.value.fix


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((1, 1)) == (255, 0, 0)


def png_bytes():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (99, 99, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"no image at all", png_bytes()[:9000], png_bytes()[:40]],
    ids=["empty", "text", "truncated", "header only"],
)
def test_a_broken_image_is_named(tmp_path, content):
    path = tmp_path / "broken é.png"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="broken é.png"):
        read_image(path)


def test_a_tiny_image_is_refused_with_its_size(tmp_path):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    with pytest.raises(RequestError, match="1 × 1"):
        read_image(tmp_path / "dot.png")


def test_a_gigantic_image_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(RequestError, match="bomb.png"):
        read_image(tmp_path / "bomb.png")


def test_images_are_found_sorted_without_masks_hidden_files_and_folders(tmp_path):
    for name in ("b.JPG", "a.png", ".DS_Store", "._a.png", "a_mask.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "ideal").mkdir()
    assert [p.name for p in find_images(tmp_path)] == ["a.png", "b.JPG"]


def test_a_photo_whose_link_leads_nowhere_is_told(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "gone" / "b.png")
    with pytest.raises(RequestError, match=r"b\.png is a link to .*gone.b\.png, which is not there"):
        read_image(find_images(tmp_path)[1])


@pytest.mark.parametrize("prepare", ["missing", "file", "empty", "texts", "nested"])
def test_a_folder_without_images_shows_the_layout(tmp_path, prepare):
    folder = tmp_path / "my photos é"
    if prepare == "file":
        folder.write_text("")
    elif prepare != "missing":
        folder.mkdir()
    if prepare == "texts":
        (folder / "a.txt").write_text("hello")
    if prepare == "nested":
        (folder / "20_dog").mkdir()
    with pytest.raises(RequestError, match="my photos é") as caught:
        find_images(folder)
    assert "1.jpg" in caught.value.fix
    if prepare == "nested":
        assert "sub-folders are not searched" in str(caught.value)


def test_a_folder_tells_all_broken_images_and_keeps_the_good_ones(tmp_path):
    gradient().save(tmp_path / "good.png")
    (tmp_path / "bad1.png").write_text("x")
    (tmp_path / "bad2.jpg").write_text("x")
    found = read_folder(tmp_path)
    assert [p.name for p in found.images] == ["good.png"] and len(found.problems) == 2


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff", "avif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_in_the_header_is_that_of_the_picture_as_it_is_read(tmp_path, suffix, orientation):
    path = tmp_path / f"a.{suffix}"
    image = gradient("RGB")
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(path, exif=exif)
    shown = (48, 64) if orientation > 4 else (64, 48)
    assert read_image(path).size == read_header(path).size == ClassImage.of(path).size == shown


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("suffix", ["avif", "heic", "jpg", "tiff", "webp"])
def test_however_a_file_is_damaged_it_is_read_or_named(tmp_path, suffix):
    """Cut short, its end lost to zeros, bytes of its head changed: nothing leaves but a sentence."""
    pillow_heif.register_heif_opener()
    path = tmp_path / f"a.{suffix}"
    gradient("RGB", (200, 200)).save(path, format="HEIF" if suffix == "heic" else None)
    whole, random = path.read_bytes(), np.random.default_rng(1)
    for share in (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99):
        size = int(len(whole) * share)
        damaged = bytearray(whole)
        damaged[random.integers(min(len(whole), 400))] = random.integers(256)
        for content in (whole[:size], whole[:size] + bytes(len(whole) - size), damaged):
            path.write_bytes(content)
            for read in (read_image, ClassImage.of):
                try:
                    read(path)
                except RequestError as error:
                    assert f"a.{suffix}" in error.what


def test_the_command_hears_no_warning_of_pillows_about_a_large_picture():
    code = "import symdream.cli; from PIL import Image; Image.new('L', (9, 9)).crop((0, 0, 9500, 9500))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")
