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
