"""What a request for pictures may not say, told before a base is loaded; and what is made of one that is right."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from helpers.app_server import write_adapter
from PIL import ImageChops

from symdream.errors import Problems, RequestError, Stopped
from symdream_apps.context import Context
from symdream_apps.generation import MAX_SEED, PictureRequest, check, check_size, make
from symdream_apps.studio import Studio, Worn
from symdream_apps.work import Line

TINY = {"steps": 1, "width": 64, "height": 64}


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(Problems) as caught:
        check(PictureRequest("a {sbject}", negative_prompt="a {blurr}", count=0, seed=-1))
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert told.keys() == {"prompt", "negative prompt", "count 0", "seed -1"}
    assert told["prompt"] == "{sbject} stands for nothing; did you mean {subject}?"


@pytest.mark.parametrize("prompt", ["a {subject}", "a {red|blue} bird", "a {"])
def test_other_braces_are_text(prompt):
    check(PictureRequest(prompt, negative_prompt=prompt))


@pytest.mark.parametrize("weight", [10, -10])
def test_a_weight_may_go_as_far_as_ten_on_either_side(tmp_path, weight):
    check(PictureRequest("a", adapters=[Worn(tmp_path, weight)]))
    with pytest.raises(Problems, match=f"weight {1.1 * weight:g}"):
        check(PictureRequest("a", adapters=[Worn(tmp_path, 1.1 * weight)]))


def test_twice_a_bases_own_side_is_the_most():
    base = SimpleNamespace(name="sprite", resolution=128)
    check_size(base, 256, 256)
    with pytest.raises(RequestError, match="stay below 256 × 256"):
        check_size(base, 264, 256)


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    studio = Studio(Context.at(tmp_path_factory.mktemp("made") / "runs"))
    yield studio
    studio.close()


def test_five_pictures_come_in_two_batches_each_with_its_own_seed(studio):
    """The seeds go on from 0 after the last one, and 0 is a guidance like any other."""
    worn = Worn(write_adapter(studio.context.runs / "owl"), 0.5)
    kept = []
    asked = PictureRequest("a sks bird", adapters=[worn], seed=MAX_SEED - 2, count=5, guidance=0, **TINY)
    result = make(studio, asked, Line(), lambda first, made: kept.append((first, made)))
    assert [(first, len(made)) for first, made in kept] == [(0, 4), (4, 1)]
    assert [made.settings["seed"] for made in result.pictures] == [MAX_SEED - 2, MAX_SEED - 1, MAX_SEED, 0, 1]
    for made in result.pictures:
        assert (made.settings["guidance"], made.settings["adapter"], made.settings["weight"]) == (0, "owl", 0.5)
        [one] = make(studio, replace(asked, seed=made.settings["seed"], count=1), Line()).pictures
        difference = max(high for _, high in ImageChops.difference(one.image, made.image).getextrema())
        assert difference <= 1  # a batch of another size adds up in another order


def test_a_stop_keeps_what_was_finished_and_says_how_much(studio):
    line = Line()
    asked = PictureRequest("a bird", count=6, **TINY)
    result = make(studio, asked, line, lambda first, made: line.stop.set())
    assert len(result.pictures) == 4 and result.notes[0] == "Stopped: 4 of 6 pictures were finished."
    with pytest.raises(Stopped):
        make(studio, asked, line)


def test_two_adapters_of_one_trigger_are_told_and_neither_is_the_pictures_own(studio):
    worn = [
        Worn(write_adapter(studio.context.runs / name, seed=seed), 1.0) for seed, name in enumerate(("one", "other"))
    ]
    result = make(studio, PictureRequest("a sks bird", adapters=worn, **TINY), Line())
    assert ['answer to "sks" alike' in note for note in result.notes] == [True]
    settings = result.pictures[0].settings
    assert [entry["name"] for entry in settings["adapters"]] == ["one", "other"] and "adapter" not in settings


def test_subject_is_filled_in_by_the_first_adapter_that_says_its_words(studio):
    worn = [Worn(write_adapter(studio.context.runs / f"of {word}", trigger=word), 0.5) for word in ("", "zwx", "sks")]
    result = make(studio, PictureRequest("a {subject}", adapters=worn, **TINY), Line())
    assert result.pictures[0].settings["prompt"] == "a zwx bird"
