"""A comparison as its work gives it: the pictures, what is told on the way, the scores and the grid."""

from itertools import product

import pytest
from helpers.app_server import write_run
from helpers.runs import make_photos
from PIL import Image

from symdream.data.images import find_images
from symdream.data.samples import sample_data
from symdream.diffusion.grid import make_grid
from symdream.errors import Problems
from symdream_apps import comparison
from symdream_apps.adapters import read_card
from symdream_apps.context import Context
from symdream_apps.generation import PictureRequest
from symdream_apps.studio import Studio
from symdream_apps.work import Line

TINY = {"steps": 2, "guidance": 2.0, "width": 64, "height": 64}


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    studio = Studio(Context.at(tmp_path_factory.mktemp("compared") / "runs"))
    yield studio
    studio.close()


@pytest.fixture(scope="module")
def cards(studio):
    for name, noun, trigger in (("owl", "bird", "sks"), ("fox", "dog", "zwx")):
        photos = sample_data().resolve() / name
        write_run(studio.context.runs / name, photos=photos, noun=noun, trigger=trigger)
    return [read_card(studio.context, name) for name in ("owl", "fox")]


def test_what_is_wrong_with_a_row_is_told_before_a_base_is_loaded(studio, cards):
    rows = [comparison.Row("a bird", 0), comparison.Row("a bird", 2**53)]
    with pytest.raises(Problems, match=f"seed {2**53}"):
        comparison.compare(studio, PictureRequest(""), comparison.of_adapters(cards), rows, [[]] * 3, Line())
    assert "No model is loaded" in studio.state


def test_each_variant_has_its_own_words_and_all_is_told_once_and_in_its_place(studio, cards):
    asked = PictureRequest("", negative_prompt="a red {subject} " + "on grass " * 60 + "at night", **TINY)
    rows = [comparison.Row("a {subject}", 3), comparison.Row("a bird", 4)]
    variants, line, kept = comparison.of_adapters(cards), Line(), {}
    result = comparison.compare(studio, asked, variants, rows, [[]] * 3, line, kept.__setitem__)

    told = [cell.made.settings for row in result.cells for cell in row]
    words = ["sks bird", "sks bird", "zwx dog"]
    assert [settings["prompt"] for settings in told] == [f"a {subject}" for subject in words] + ["a bird"] * 3
    assert [settings["negative_prompt"].split(" on ")[0] for settings in told] == [f"a red {x}" for x in words * 2]
    assert [settings["seed"] for settings in told] == [3, 3, 3, 4, 4, 4]
    assert [[adapter["name"] for adapter in settings["adapters"]] for settings in told] == [[], ["owl"], ["fox"]] * 2
    missed = [note for note in result.notes if "answers to" in note]
    assert [note.partition(" ")[0] for note in missed] == ["owl", "fox"]
    assert [note.startswith("The negative prompt is longer") for note in result.notes] == [True, False, False, True]

    pictures, steps = {}, []
    while not line.events.empty():
        update = line.events.get()
        pictures.update(update.pictures or {})
        steps += [update.share] if update.share else []
    assert steps == pytest.approx([step / 6 for step in range(1, 7)])
    for (row, column), place in zip(product(range(2), range(3)), range(6), strict=True):
        assert pictures[place] is kept[place].image is result.cells[row][column].made.image


def test_a_negative_prompt_without_effect_is_told(studio, cards):
    asked = PictureRequest("", negative_prompt="red", **TINY | {"guidance": 1.0, "steps": 1})
    rows = [comparison.Row("a sks bird", 0)]
    result = comparison.compare(studio, asked, comparison.of_weights(cards[0], [0, 1]), rows, [[]] * 2, Line())
    [note] = result.notes
    assert "no effect at guidance 1" in note


def compared(studio, cards, photos):
    """Two adapters, each against the photos of a folder of its own."""
    variants = comparison.of_adapters(cards, base_too=False)
    asked, rows = PictureRequest("", **TINY | {"steps": 1}), [comparison.Row("a {subject}", 0)]
    return comparison.compare(studio, asked, variants, rows, [find_images(folder) for folder in photos], Line())


def test_photographs_are_told_once_to_sprites_encoders(studio, cards, tmp_path):
    result = compared(studio, cards, [make_photos(tmp_path / name, size=(200, 200)) for name in "ab"])
    assert result.scored and ["photographs" in note for note in result.notes] == [True]


def test_pictures_that_cannot_be_scored_are_there_all_the_same_and_say_why(studio, cards, tmp_path):
    photos = [make_photos(tmp_path / name) for name in "ab"]
    (photos[1] / "02.png").write_text("no picture any more")
    result = compared(studio, cards, photos)
    [note] = result.notes
    assert note.startswith("No scores: ") and "02.png" in note
    assert len(result.cells[0]) == 2 and not result.scored and result.references == []
    assert all(cell.dino is None for cell in result.cells[0])  # of the first neither


@pytest.mark.parametrize("scored", [True, False])
def test_the_grid_names_rows_and_columns_and_has_each_score_below_its_picture(cards, scored):
    variants, rows = comparison.of_adapters(cards), [comparison.Row("a {subject}", 1), comparison.Row("a toy", 2)]
    cells = []
    for y, row in enumerate(rows):
        made = []
        for x, variant in enumerate(variants):
            prompt = row.prompt.replace("{subject}", variant.words)
            image = Image.new("RGB", (8, 8), (90 * y, 60 * x, 0))
            made.append(comparison.Made(image, {"prompt": prompt}))
        numbers = [(0.1 * x + y / 2, 0.9 - 0.2 * x) if scored else (None, None) for x in range(3)]
        cells.append([comparison.Cell(one, *scores) for one, scores in zip(made, numbers, strict=True)])
    expected = make_grid(
        [[cell.made.image for cell in row] for row in cells],
        column_labels=["base alone: sks bird", "owl: sks bird", "fox: zwx dog"],
        row_labels=["a {subject} · seed 1", "a toy · seed 2"],
        captions=[
            ["DINO 0.00 · CLIP-T 0.90", "DINO 0.10 · CLIP-T 0.70", "DINO 0.20 · CLIP-T 0.50"],
            ["DINO 0.50 · CLIP-T 0.90", "DINO 0.60 · CLIP-T 0.70", "DINO 0.70 · CLIP-T 0.50"],
        ]
        if scored
        else (),
        cell=208,
    )
    assert comparison.Comparison(variants, rows, cells).grid() == expected


def test_columns_tell_their_words_only_where_these_make_other_prompts(cards):
    variants = comparison.of_adapters(cards, base_too=False)
    assert comparison.column_labels(variants, [comparison.Row("a toy", 0)]) == ["owl", "fox"]
    assert comparison.column_labels(variants, [comparison.Row("a {subject}", 0)]) == ["owl: sks bird", "fox: zwx dog"]


def test_as_many_pictures_as_are_allowed_are_allowed(cards):
    most = comparison.MAX_PICTURES
    assert comparison.parse_seeds(f"0-{most - 1}; {most}") == list(range(most + 1))
    assert (
        len(comparison.check_comparison(comparison.of_weights(cards[0], [0, 1]), ["a"], range(most // 2))) == most / 2
    )
