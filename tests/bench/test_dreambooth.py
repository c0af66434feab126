"""The layout of the public data set: classes, the two lists of prompts, 3,000 pictures."""

import numpy as np
import pytest
from helpers.runs import make_photos
from PIL import Image

from symdream.bench.dreambooth import read_protocol
from symdream.bench.grid import Grid, build, compared_subjects, prompts_of, subjects_of, to_toml
from symdream.bench.told import notes_on_photos
from symdream.bench.workshop import Workshop
from symdream.data.samples import sample_data
from symdream.errors import RequestError

LIVE, OBJECTS = 9, 21


def layout(folder):
    """As the public data set is laid out: 30 subjects, of which 9 live, and 25 prompts of each kind."""
    names = {f"dog{i}" if i < LIVE else f"thing-{i}": "dog" if i < LIVE else "stuffed animal" for i in range(30)}
    for name in names:
        make_photos(folder / name, count=1, size=(40, 40))
    lines = ["Classes", "", "subject_name,class", *(f"{name},{noun}" for name, noun in names.items()), "", "Prompts"]
    for kind in ("Object", "Live Subject"):
        lines += ["", f"{kind} Prompts", "", "prompt_list = ["]
        lines += [
            f"'a {kind.split()[0].lower()} {{0}} {{1}} in place {i}'.format(unique_token, class_token),"
            for i in range(25)
        ]
        lines += ["]"]
    (folder / "prompts_and_classes.txt").write_text("\n".join(lines))
    return folder


def test_thirty_subjects_of_twenty_five_prompts_and_four_images_are_three_thousand(tmp_path):
    grid = build({"data": layout(tmp_path), "base": "sprite"}, "dreambooth")
    subjects = subjects_of(grid)
    names = compared_subjects(grid, subjects)
    assert len(names) == 30
    assert sum(len(prompts_of(grid, subjects[name])) * len(grid.image_seeds) for name in names) == 3000
    assert subjects["dog3"].prompts[4] == "a live {subject} in place 4"
    assert subjects["thing-20"].prompts[0] == "a object {subject} in place 0"
    assert subjects["thing-20"].class_noun == "stuffed animal"


@pytest.mark.parametrize("asked", ["samples", "dreambooth"])
def test_the_folder_tells_its_layout_whatever_the_grid_says(asked, tmp_path):
    """A grid.toml of before says "samples" of the data set: it can be gone on with."""
    data = layout(tmp_path / "data")
    (tmp_path / "grid.toml").write_text(to_toml(Grid(data=data, tune=False, layout=asked)))
    grid = build({}, None, tmp_path / "grid.toml")
    assert grid.layout == "dreambooth" and len(subjects_of(grid)) == 30
    assert build({"data": sample_data(), "layout": asked}).layout == "samples"


def test_subjects_without_photos_are_left_out(tmp_path):
    layout(tmp_path)
    for photo in (tmp_path / "dog0").iterdir():
        photo.unlink()
    (tmp_path / "dog0").rmdir()
    assert "dog0" not in read_protocol(tmp_path).classes and len(read_protocol(tmp_path).classes) == 29


def test_another_text_file_is_refused(tmp_path):
    (tmp_path / "prompts_and_classes.txt").write_text("dog,dog\n")
    with pytest.raises(RequestError, match="not the data set's"):
        read_protocol(tmp_path)


@pytest.mark.slow
def test_photographs_on_sprite_are_said_to_mean_nothing(tmp_path):
    """The dry run of the protocol on the embedded base proves the machinery; results.json and report say so."""
    noise = np.random.default_rng(0)
    for photo in layout(tmp_path / "data").glob("*/*.png"):
        Image.fromarray(noise.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo)
    grid = build({"data": tmp_path / "data", "base": "sprite", "subjects": ["dog0", "dog1"]}, "dreambooth")
    [note] = notes_on_photos(Workshop(grid, tmp_path / "out"), ["dog0", "dog1"])
    assert "the scores mean nothing" in note
    art = build({"subjects": ["fox"]}, "smoke")
    assert notes_on_photos(Workshop(art, tmp_path / "art"), ["fox"]) == []
