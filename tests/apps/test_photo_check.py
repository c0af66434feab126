import shutil
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageFilter

from symdream.data.buckets import cuts
from symdream.data.images import find_images, read_image
from symdream.training.request import check_subject
from symdream_apps.photo_check import MOST, check, copy_photos, edge_width, is_blurred, near, perceptual_hash
from symdream_apps.text import no_markdown
from symdream_apps.train_request import captions_by_photo

OWL = Path(__file__).parents[2] / "sample_data" / "owl"


def save(image, path, **options):
    image.save(path, **options)
    return path


def test_the_sample_subjects_pass_without_a_word():
    report = check(find_images(OWL), 128, sprite=True)
    assert len(report.photos) == 5 and not report.refused and not report.notes and report.photographs is None
    assert [photo.notes for photo in report.photos] == [[]] * 5


def test_the_crop_is_the_one_that_is_trained_on(tmp_path):
    wide = read_image(OWL / "00.png").resize((300, 150))
    report = check([save(wide, tmp_path / "wide.png")], 128, sprite=True)
    [[cut]] = cuts((300, 150), (128, 128), "center")
    assert np.array_equal(report.photos[0].crop, cut.apply(wide))
    assert any("50% of it is cut away" in note for note in report.photos[0].notes)


def test_small_photos_duplicates_and_a_set_too_small_are_told(tmp_path):
    owl = read_image(OWL / "00.png")
    small = save(owl.resize((64, 64)), tmp_path / "small.jpg", quality=70)
    report = check([OWL / "00.png", small], 128, sprite=True)
    assert report.photos[1].notes[0] == "small: scaled up 2.0 times to 128 pixels"
    assert any("almost the same picture as 00.png" in note for note in report.photos[1].notes)
    assert report.photos[0].notes == [] and "fewer than 3" in report.notes[0]


@pytest.mark.parametrize(
    ("count", "note"), [(2, "2 photos: with fewer than 3"), (3, ""), (6, ""), (7, "7 photos: 3 to 6")]
)
def test_three_to_six_photos_are_usual(tmp_path, count, note):
    owl = read_image(OWL / "00.png")
    report = check([save(owl.resize((128 + i, 128)), tmp_path / f"{i}.png") for i in range(count)], 128, sprite=True)
    assert [told.startswith(note) for told in report.notes] == ([True] if note else [])


@pytest.mark.parametrize(("width", "told"), [(170, []), (174, ["26% of it is cut away"])])
def test_a_photo_that_loses_more_than_a_quarter_is_told(tmp_path, width, told):
    """A square of 128 is all but 25 % of 171 x 128."""
    photo = save(read_image(OWL / "00.png").resize((width, 128)), tmp_path / "a.png")
    [photo] = check([photo], 128, sprite=True).photos
    assert [note.partition(":")[0] for note in photo.notes] == told


def test_a_large_photo_may_be_softer_and_only_what_is_trained_on_must_be_sharp(tmp_path):
    owl = read_image(OWL / "00.png").resize((512, 512))
    soft = owl.filter(ImageFilter.GaussianBlur(3))
    assert not is_blurred(soft) and is_blurred(soft.crop((128, 128, 384, 384)))
    beside = Image.new("RGB", (1536, 512), "white")
    beside.paste(soft.filter(ImageFilter.GaussianBlur(6)), (512, 0))
    beside.paste(owl, (0, 0))  # sharp, and outside of the square
    [photo] = check([save(beside, tmp_path / "a.png")], 512, sprite=False).photos
    assert any(note.startswith("blurred") for note in photo.notes)


def test_a_burst_gives_each_photo_one_line(tmp_path):
    owl = read_image(OWL / "00.png")
    burst = [save(owl.resize((160 + i, 160 + i)), tmp_path / f"{i}.png") for i in range(4)]
    notes = [photo.notes for photo in check(burst, 128, sprite=True).photos]
    told = ["0.png", "0.png and 1 other", "0.png and 2 others"]
    assert notes == [[], *([f"almost the same picture as {names}: it teaches nothing new"] for names in told)]


def test_a_name_in_a_note_is_no_markdown(tmp_path):
    pytest.importorskip("gradio")
    from symdream_apps.train_page import _findings

    name = "a*b*_c_ [x](http:y).png"
    shutil.copy(OWL / "00.png", tmp_path / name)
    shutil.copy(OWL / "00.png", tmp_path / "b.png")
    line = _findings(check([tmp_path / name, tmp_path / "b.png"], 128, sprite=True)).splitlines()[-1]
    assert line == rf"- **b.png:** almost the same picture as {no_markdown(name)}: it teaches nothing new"
    assert r"a\*b\*" in line and r"\[x\]" in line


def test_a_phones_photo_is_shown_and_copied(tmp_path):
    path = tmp_path / "IMG_1.HEIC"
    shown = Image.open(OWL / "00.png").convert("RGB")
    pillow_heif.from_pillow(shown).save(path, format="HEIF", quality=95)
    report = check([path], 128, sprite=True)
    assert not report.refused and [p.name for p in report.photos] == ["IMG_1.HEIC"]
    assert np.abs(np.asarray(report.photos[0].crop).astype(int) - np.asarray(shown.resize((128, 128)))).mean() < 4


def test_what_is_no_image_is_left_out_with_its_reason_and_the_rest_is_kept(tmp_path):
    text = tmp_path / "letter.png"
    text.write_text("Dear friend")
    cut = tmp_path / "cut.png"
    cut.write_bytes((OWL / "01.png").read_bytes()[:2000])
    huge = save(Image.new("1", (10_000, 10_000)), tmp_path / "huge.png")
    tiny = save(Image.new("RGB", (8, 8)), tmp_path / "tiny.png")
    report = check([text, OWL / "00.png", cut, huge, tiny], 128, sprite=True)
    assert [photo.name for photo in report.photos] == ["00.png"]
    told = dict(zip(("letter.png", "cut.png", "huge.png", "tiny.png"), report.refused, strict=True))
    for name, words in {
        "letter.png": "not an image",
        "cut.png": "damaged",
        "huge.png": "million",
        "tiny.png": "at least 32",
    }.items():
        assert told[name].startswith(name) and words in told[name]
        assert str(tmp_path) not in told[name]


def test_of_too_many_photos_the_first_are_trained_on_and_the_page_says_so(tmp_path):
    from symdream_apps import train_request
    from symdream_apps.context import Context
    from symdream_apps.runs import Runs

    owl = read_image(OWL / "00.png")
    files = [save(owl.resize((128 + i, 128)), tmp_path / f"{i:02d}.png") for i in range(MOST + 2)]
    report = check(files, 128, sprite=True)
    assert not report.refused and "30 photos; the other 2 are left out" in report.notes[0]
    context = Context.at(tmp_path / "runs")
    name = train_request.start(context, Runs(context.runs), photos=files, class_noun="bird")
    trained = find_images(context.runs / name / "photos")
    assert [read_image(file).width for file in trained] == [128 + i for i in range(MOST)]


def test_photographs_are_told_to_sprite_alone(tmp_path):
    random = np.random.default_rng(0)
    noisy = [
        save(Image.fromarray(random.integers(0, 256, (200, 200, 3), dtype=np.uint8)), tmp_path / f"{i}.png")
        for i in range(3)
    ]
    assert "emoji of your subject" in check(noisy, 128, sprite=True).photographs
    assert check(noisy, 512, sprite=False).photographs is None


@pytest.mark.parametrize("subject", ["owl", "racing_car", "fox", "teapot"])
def test_two_pictures_of_a_subject_are_not_called_one(subject):
    hashes = [perceptual_hash(read_image(p)) for p in find_images(OWL.parent / subject)]
    for i, one in enumerate(hashes):
        assert not any(near(one, other) for other in hashes[:i])


def test_the_hash_sees_through_scale_brightness_and_jpeg(tmp_path):
    owl = read_image(OWL / "02.png")
    again = Image.open(save(owl.resize((90, 90)).point(lambda v: v * 0.8), tmp_path / "a.jpg", quality=50))
    assert perceptual_hash(owl).shape == (143,)
    turned = owl.transpose(Image.Transpose.ROTATE_180)
    assert near(perceptual_hash(owl), perceptual_hash(again))
    assert not near(perceptual_hash(owl), perceptual_hash(turned))


def test_the_edge_width_of_a_blurred_step_is_the_blur():
    stripes = np.where(np.arange(256) // 42 % 2, 30, 220)
    step = Image.fromarray(np.repeat(stripes[None], 256, 0).astype(np.uint8))
    for sigma in (2, 4, 6):
        assert edge_width(step.filter(ImageFilter.GaussianBlur(sigma))) == pytest.approx(sigma, rel=0.15)


def test_blur_is_seen_where_it_is_and_nowhere_else():
    for path in find_images(OWL):
        image = read_image(path)
        assert not is_blurred(image) and is_blurred(image.filter(ImageFilter.GaussianBlur(2)))


def test_copied_photos_keep_their_captions_and_train(tmp_path):
    from symdream.settings import build

    evil = save(read_image(OWL / "00.png"), tmp_path / "my photo & co_MASK.PNG")
    folder = tmp_path / "photos"
    folder.mkdir()
    copy_photos([evil, OWL / "01.png"], ["a 3d render of a {subject} on red", ""], folder)
    assert sorted(p.name for p in folder.iterdir()) == ["00-my-photo---co.png", "00-my-photo---co.txt", "01-01.png"]
    config = build({"subject": {"images": folder, "class_noun": "bird"}}, checks=(check_subject,))
    assert len(find_images(config.subject.images)) == 2


@pytest.mark.parametrize("name", ["from windows.jfif", "no ending", "photo.txt", "IMG.2024-05-01"])
@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "HEIF"])
def test_a_photo_that_is_shown_is_trained_on_whatever_its_name_ends_in(tmp_path, name, kind):
    owl, more = read_image(OWL / "00.png"), {"save_all": True, "append_images": [read_image(OWL / "01.png")]}
    photo, folder = tmp_path / name, tmp_path / "photos"
    pillow_heif.register_heif_opener()
    save(owl, photo, format=kind, **(more if kind == "MPO" else {}))
    folder.mkdir()
    copy_photos([photo.path for photo in check([photo], 512, sprite=False).photos], ["a {subject} on red"], folder)
    [found] = find_images(folder)
    assert read_image(found).size == owl.size and found.with_suffix(".txt").read_text() == "a {subject} on red\n"


def test_captions_follow_the_photo_that_their_row_names():
    photos = [Path("1/a.png"), Path("2/a.png"), Path("b.png"), Path("c.png")]
    rows = [["b.png", "B"], ["", ""], ["a.png", "first"], ["a.png", "second"], ["gone.png", "?"], ["c.png"]]
    assert captions_by_photo(photos, rows) == {"1/a.png": "first", "2/a.png": "second", "b.png": "B", "c.png": ""}
