"""What is asked of a request before anything starts."""

import os

import pytest
from helpers.runs import make_photos, symdream, train_tiny_to_step_2

from symdream.errors import Problems
from symdream.training import request
from symdream.training.run_folder import RunFolder

BYTES = os.fsdecode(b"b\xff")  # a name as an old disk or a broken archive leaves it


def problems_of(photos, *flags):
    argv = ["--images", photos, "--class-noun", "toy", *flags]
    with pytest.raises(Problems) as caught:
        request.read_request(request.parse([str(word) for word in argv], "symdream train", ""))
    return {p.key: p.message for p in caught.value.problems}


@pytest.mark.parametrize(
    ("flag", "key"),
    [("-o", "output.output"), ("--cache-dir", "data.cache_dir"), ("--sample-prompts", "output.sample_prompts")],
)
def test_a_text_or_path_that_is_not_utf8_is_refused(tmp_path, photos, flag, key):
    result = symdream("train", "--images", photos, "--class-noun", "toy", flag, BYTES, cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert key in result.stderr and "not UTF-8" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_that_is_not_utf8_is_told_together(tmp_path, photos):
    (tmp_path / BYTES).mkdir()
    place = tmp_path / BYTES
    flags = ["--start-from", place, "--class-images", make_photos(place / "class"), "-o", place / "run"]
    assert set(problems_of(photos, *flags)) == {"adapter.start_from", "prior.class_images", "output.output"}


def test_a_run_whose_photos_moved_goes_on_when_its_settings_tell_where_they_are(tmp_path, tiny_sd1):
    photos = make_photos(tmp_path / "photos")
    run = train_tiny_to_step_2(tmp_path / "run", tiny_sd1, photos)
    moved = photos.rename(tmp_path / "moved")
    refused = symdream("train", "--resume", run.path)
    assert refused.returncode == 2 and f"write into {run.config} where they are now" in refused.stderr
    run.config.write_text(run.config.read_text().replace(str(photos), str(moved)))
    resumed = symdream("train", "--resume", run.path)
    assert resumed.returncode == 0 and run.read_state()["status"] == "finished", resumed.stderr


def test_a_photo_whose_name_is_not_utf8_is_named(tmp_path):
    photos = make_photos(tmp_path / "photos")
    (photos / "00.png").rename(photos / f"{BYTES}.png")
    [message] = problems_of(photos).values()
    assert r"b\udcff.png" in message and "not UTF-8" in message


@pytest.mark.parametrize("word", ["{subject}", "{place}"])
def test_a_word_in_braces_that_stands_for_nothing_is_refused(tmp_path, word):
    photos = make_photos(tmp_path / "photos")
    (photos / "00.txt").write_text(f"sks in {word}")
    told = problems_of(photos, "--class-count", "1", "--class-prompt", f"a {word}")
    assert f"write its noun instead of {word}" in told[f"prior.class_prompt = a {word}"]
    if word == "{subject}":
        assert "subject.images" not in told
    else:
        assert "00.txt: {place} stands for nothing" in told["subject.images"]


def test_words_are_read_without_the_spaces_around_them_and_must_be_some(photos):
    argv = ["--images", str(photos), "--class-noun", " red toy ", "--trigger", "zwx "]
    subject = request.read_request(request.parse(argv, "symdream train", "")).subject
    assert (subject.class_noun, subject.trigger) == ("red toy", "zwx")
    flags = ["--trigger", "  ", "--class-noun", " ", "--class-count", "1", "--class-prompt", "\t"]
    told = {"subject.class_noun": "is empty", "prior.class_prompt": "is empty"}
    assert problems_of(photos, *flags) == told | {"subject.trigger": "is empty (default sks)"}


def test_a_run_whose_class_images_moved_says_so(tmp_path, tiny_sd1, photos):
    classes = make_photos(tmp_path / "classes")
    run = train_tiny_to_step_2(tmp_path / "run", tiny_sd1, photos, class_images=classes)
    classes.rename(tmp_path / "moved")
    refused = symdream("train", "--resume", run.path)
    assert refused.returncode == 2
    assert "prior.class_images" in refused.stderr and str(run.config) in refused.stderr
    assert "--images" not in refused.stderr


@pytest.mark.parametrize("flags", [[], ["--buckets"]])
def test_a_random_crop_that_leaves_no_room_is_refused(tmp_path, flags):
    square = make_photos(tmp_path / "square", size=(80, 80))
    assert problems_of(square, "--crop", "random", *flags) == {
        "data.crop": "random does nothing: every photo is square and shown whole"
    }
    oblong = make_photos(tmp_path / "oblong")
    argv = ["--images", str(oblong), "--class-noun", "toy", "--crop", "random", *flags]
    assert request.read_request(request.parse(argv, "symdream train", "")).data.crop == "random"


@pytest.mark.parametrize(
    ("content", "lacks"),
    [
        ("", {"subject.class_noun", "subject.images"}),
        ('[subject]\nimages = "photos"\n', {"subject.class_noun"}),
        ('[subject]\nclass_noun = "dog"\n[adapter]\nrank = 4\n', {"subject.images"}),
        ('[[subjects]]\ntrigger = "one"\nclass_noun = "dog"\nimages = "a"\n[[subjects]]\ntrigger = "two"\n',
         {"subjects[2].class_noun", "subjects[2].images"}),
    ],
)  # fmt: skip
def test_a_run_whose_settings_lack_their_subject_is_refused(tmp_path, content, lacks):
    run = RunFolder(tmp_path)
    run.config.write_text(content)
    with pytest.raises(Problems, match=f"in {run.config}, which is damaged or incomplete") as caught:
        request.settings_of(run)
    assert {p.key for p in caught.value.problems} == lacks


def test_resuming_a_run_whose_config_is_empty_ends_with_2(tmp_path):
    (tmp_path / "config.toml").write_text("")
    result = symdream("train", "--resume", tmp_path)
    assert result.returncode == 2 and "subject.class_noun  is needed: what the subject is\n" in result.stderr
    assert "Traceback" not in result.stderr and sorted(p.name for p in tmp_path.iterdir()) == ["config.toml"]
