"""From the form of the Train page to the settings of a run in the queue."""

import pytest
from helpers.runs import make_photos

from symdream.config import TrainConfig
from symdream.errors import Problems
from symdream.metrics.prompts import PHOTO_SCENES, SPRITE_SCENES
from symdream.training.request import settings_of
from symdream_apps import train_request
from symdream_apps.context import Context
from symdream_apps.runs import Runs


@pytest.fixture
def context(tmp_path):
    return Context.at(tmp_path / "runs")


def start(context, **asked):
    """Name and settings of what is queued then."""
    runs = Runs(context.runs)
    name = train_request.start(context, runs, **{"class_noun": "bird", **asked})
    assert runs.queue() == [name]
    return name, settings_of(runs.get(name))


def test_what_the_form_says_is_what_will_be_trained(context):
    settings = {"rank": 5, "sample_every": 7, "seed": 3, "lr": None, "alpha": ""}
    asked = {"sample": "owl", "class_noun": " barn owl ", "trigger": " zwx ", "method": "symlora", "preset": "quick"}
    name, config = start(context, **asked, settings=settings, name="my owl!")
    [subject] = config.learned
    assert name == "my-owl" and subject.images == context.samples / "owl"
    assert (subject.class_noun, subject.trigger) == ("barn owl", "zwx")
    assert (config.adapter.method, config.adapter.rank, config.training.seed) == ("symlora", 5, 3)
    assert config.output.sample_every == 7 and config.output.sample_prompts == [
        prompt.text for prompt in SPRITE_SCENES.prompts[:2]
    ]
    assert config.training.steps != TrainConfig().training.steps  # the preset's


def test_for_another_base_the_pictures_on_the_way_are_of_scenes_for_photographs(context):
    _, config = start(context, sample="owl", base="sd15")
    assert config.output.sample_prompts == [prompt.text for prompt in PHOTO_SCENES.prompts[:2]]
    assert config.output.sample_every == train_request.SAMPLE_EVERY


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({"sample": "owl", "method": "lora+"}, "owl-loraplus"),
        ({"photos": True, "class_noun": "my dog & I"}, "my-dog-I-singlora"),
        ({"sample": "owl", "name": "?"}, "owl-singlora"),
    ],
)
def test_a_run_without_a_name_is_called_by_what_it_learns_and_how(context, asked, name):
    if "photos" in asked:
        asked["photos"] = sorted(make_photos(context.uploads / "photos").iterdir())
    assert start(context, **asked)[0] == name


def test_each_photo_has_its_own_caption(context):
    photos = sorted(make_photos(context.uploads / "photos").iterdir())
    captions = {str(photos[2]): "a {subject} on red", str(photos[0]): "a {subject} on blue"}
    name, config = start(context, photos=photos, captions=captions)
    told = {file.name: file.read_text() for file in config.subject.images.glob("*.txt")}
    assert told == {"00-00.txt": "a {subject} on blue\n", "02-02.txt": "a {subject} on red\n"}


@pytest.mark.parametrize("key", ["overwrite", "class_images", "dino", "clip", "wandb"])
def test_no_file_encoder_or_service_is_for_a_browser_to_choose(context, key):
    with pytest.raises(Problems, match=f"{key}  is no setting that can be given here"):
        start(context, sample="owl", settings={key: True})


def test_photos_and_a_sample_subject_do_not_go_together(context):
    photos = sorted(make_photos(context.uploads / "photos").iterdir())
    with pytest.raises(Problems, match="take one of them"):
        start(context, sample="owl", photos=photos)
    assert Runs(context.runs).names() == []
