"""What a run says at its start about the photos it was given."""

from helpers.runs import make_photos, train_tiny


def test_pictures_of_kinds_that_are_not_read_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    for name in ("IMG_1.DNG", "clip.mov", "notes.md", "prompts.toml"):
        (photos / name).write_bytes(b"x")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert f"left out of {photos}: IMG_1.DNG, clip.mov;" in said
    assert "from 3 photos" in said and "notes.md" not in said and "prompts.toml" not in said
    assert "captions" not in said and "not used" not in said


def test_captions_that_do_not_ask_for_the_subject_or_are_too_long_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    (photos / "00.txt").write_text("a toy on a table, skseries")
    (photos / "01.txt").write_text("\ufeffSKS toy on " + "very " * 90 + "red", encoding="utf-8")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert 'the captions of 00.png do not say the trigger "sks"' in said
    assert "the caption of 01.png is longer" in said and said.count("Cut off") == 1


def test_captions_from_files_are_counted_and_files_that_only_look_like_captions_named(
    tmp_path, tiny_sd1, capsys, few_denoising_steps
):
    photos = make_photos(tmp_path / "photos", 4)
    for name in ("00.TXT", "01.Txt", "02.png.txt", "3.txt", "02.caption"):
        (photos / name).write_text("a {subject} at night")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert "captions: 2 of 4 from files" in said
    assert f"not used in {photos}: 02.caption, 02.png.txt, 3.txt; the caption of NAME.png" in said
