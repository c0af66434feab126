"""What a run says at its start about the photos it was given."""

from helpers.runs import make_photos, train_tiny


def test_pictures_of_kinds_that_are_not_read_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    for name in ("IMG_1.DNG", "clip.mov", "notes.txt", "prompts.toml"):
        (photos / name).write_bytes(b"x")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert f"left out of {photos}: IMG_1.DNG, clip.mov;" in said
    assert "from 3 photos" in said and "notes.txt" not in said and "prompts.toml" not in said


def test_captions_that_do_not_ask_for_the_subject_or_are_too_long_are_named(tmp_path, tiny_sd1, capsys):
    photos = make_photos(tmp_path / "photos")
    (photos / "00.txt").write_text("a toy on a table, skseries")
    (photos / "01.txt").write_text("\ufeffSKS toy on " + "very " * 90 + "red", encoding="utf-8")
    train_tiny(tmp_path / "run", tiny_sd1, photos, steps=1)
    said = capsys.readouterr().err
    assert 'the captions of 00.png do not say the trigger "sks"' in said
    assert "the caption of 01.png is longer" in said and said.count("Cut off") == 1
