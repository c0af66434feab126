"""What the Generate page does when it is used, called without a browser."""

import shutil
from types import SimpleNamespace

import pytest
from helpers.app_server import write_adapter, write_run
from PIL import Image

from symdream.errors import RequestError

gr = pytest.importorskip("gradio")

from symdream_apps import generation, history  # noqa: E402
from symdream_apps.compare_page import ComparePage  # noqa: E402
from symdream_apps.context import Context  # noqa: E402
from symdream_apps.generate_page import GeneratePage, sizes_of  # noqa: E402
from symdream_apps.library_page import _Detail  # noqa: E402
from symdream_apps.runs import Runs  # noqa: E402
from symdream_apps.shared import Shared  # noqa: E402
from symdream_apps.studio import Studio  # noqa: E402
from symdream_apps.work import Desk  # noqa: E402

SETTINGS = {
    "prompt": "a", "negative_prompt": "", "seed": 1, "steps": 2, "guidance": 1, "sampler": "base", "width": 64,
    "height": 64, "base": "sprite", "adapters": [],
}  # fmt: skip


@pytest.fixture
def context(tmp_path):
    return Context.at(tmp_path / "runs")


@pytest.fixture
def page(context):
    studio = Studio(context)
    with gr.Blocks():
        yield GeneratePage(context, Shared.across(gr.Tabs(), context, Desk(studio)))
    studio.close()


def keep(page, owner, **settings):
    image = Image.new("RGB", (SETTINGS["width"], SETTINGS["height"]))
    [file] = page.shared.history.save(owner, [generation.Made(image, {**SETTINGS, **settings})])
    return file


def click(place):
    return SimpleNamespace(index=place)


def test_a_click_in_the_history_means_the_picture_that_is_shown_there(page):
    owner = history.new_owner()
    keep(page, owner, prompt="shown")
    shown, past = page.look_back(owner, None)
    assert len(shown) == len(past) == 1
    keep(page, owner, prompt="made meanwhile", seed=2)  # by a comparison, or in a second tab
    picked, details, _ = page.pick(past, click(0))
    assert picked == past[0] and "shown" in details.value
    assert page.pick(past, click(1))[0] is None


def test_pictures_that_went_to_the_trash_are_not_chosen_any_more(page):
    owner = history.new_owner()
    keep(page, owner)
    _, past = page.look_back(owner, None)
    thumbnails, past_now, gallery, made, picked, details, actions = page.forget(owner, None)
    assert (thumbnails, past_now, gallery, made, picked) == ([], [], None, [], None)
    assert not details.visible and not actions.visible
    # A second tab still shows them.
    with pytest.raises(RequestError, match="not there any more"):
        page.pick(past, click(0))
    with pytest.raises(RequestError, match="not there any more"):
        page.restore(past[0], [])


def test_a_picture_beyond_the_sliders_brings_settings_that_can_be_used(page):
    file = keep(page, history.new_owner(), steps=150, guidance=25.0, sampler="ddpm", width=512)
    with pytest.warns(UserWarning, match="no sampler ddpm"):
        values = dict(zip(page.restored, page.restore(str(file), []), strict=True))
    for shown, value in ((page.steps, 150), (page.guidance, 25.0), (page.width, 512)):
        assert values[shown].value == value == values[shown].maximum
    assert values[page.sampler] == "base"
    usual = dict(zip(page.restored, page.restore(str(keep(page, history.new_owner())), []), strict=True))
    assert (usual[page.steps].maximum, usual[page.guidance].maximum) == (100, 20)


@pytest.mark.parametrize(
    ("identity", "base", "steps"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5@451f4fe16113bff5a5d2269ed5ad43b0592e9a14", "sd15", 30),
        ("stabilityai/stable-diffusion-xl-base-1.0@main", "sdxl", 30),
        ("some/other@main", "some/other@main", 30),
        ("folder:my base", "my base", 30),
    ],
)
@pytest.mark.parametrize("on", ["generate", "compare"])
def test_an_adapter_that_is_handed_over_brings_its_base(context, page, identity, base, steps, on):
    write_adapter(context.runs / "dog", base=identity)
    write_adapter(context.runs / "owl")
    (context.runs / "my base").mkdir()
    (context.runs / "my base" / "model_index.json").touch()
    dog, owl = str(context.runs / "dog"), str(context.runs / "owl")
    if on == "compare":
        page = ComparePage(context, page.shared)

    def taken(path, chosen, base):
        return page.take({"page": on, "paths": [path]}, chosen, [], base)

    rows, listed, shown, its_steps, *_ = taken(dog, [], "sprite")
    assert (rows.value, shown, its_steps) == ([dog], base, steps) and rows.choices == listed
    assert len(_) == (3 if on == "generate" else 1)
    # What the page says already stays as it is, and so does what another adapter may need.
    assert is_skip(taken(dog, [], base)[2]) and is_skip(taken(dog, [owl], "sprite")[2])
    assert is_skip(taken(owl, [], "sprite")[2]) and taken(owl, [], "sd15")[2:5] == ("sprite", 25, 4.0)


def test_a_base_of_another_size_brings_sizes_that_it_can_draw(context, page):
    """A real copy of sprite, and one that says nothing useful: the page goes by what loading them finds."""
    from symdream.diffusion.base import load_base
    from symdream.diffusion.export_base import export_base

    export_base(load_base("sprite"), context.runs / "copy")
    loaded = load_base(str(context.runs / "copy"))
    steps, guidance, width, height = sizes_of(context, "copy")
    page.shared.studio.base("copy")
    assert page.shared.studio.state.startswith("copy is loaded")  # and not where the runs folder lies
    assert (steps, guidance) == (loaded.defaults["steps"], loaded.defaults["guidance"])
    for side in (width, height):
        assert side.value == loaded.resolution and side.maximum == 2 * loaded.resolution
    (context.runs / "copy" / "unet" / "config.json").write_text("no JSON")
    assert sizes_of(context, "copy")[2].value == sizes_of(context, "no such base")[2].value == 512


def is_skip(value):
    return isinstance(value, dict) and value == gr.skip()


def test_an_adapter_whose_base_is_not_here_or_not_told_changes_no_base(context, page):
    odd = ["v1-5-pruned", "5", "/home/x/y.safetensors"]
    odd += [f"folder:{name}" for name in ("..", "/etc", ".app", "a" * 300)]
    for place, identity in enumerate(("folder:elsewhere", "file:x.safetensors", None, "folder:run0", *odd)):
        path = write_adapter(context.runs / f"run{place}", base=identity)
        assert is_skip(page.take({"page": "generate", "paths": [str(path)]}, [], [], "sprite")[2])


def test_an_adapter_that_is_chosen_already_keeps_the_base_and_its_settings(context, page):
    path = str(write_adapter(context.runs / "dog", base="stabilityai/stable-diffusion-xl-base-1.0"))
    assert is_skip(page.take({"page": "generate", "paths": [path]}, [path], [], "sd15")[2])


def test_a_pictures_base_comes_back_by_the_name_that_the_page_has(context, page):
    (context.runs / "my base").mkdir()
    (context.runs / "my base" / "model_index.json").touch()
    known = {
        "sprite": "sprite",
        "folder:my base": "my base",
        "stabilityai/stable-diffusion-xl-base-1.0@4621": "sdxl",
        "folder:gone": "folder:gone",
    }
    for identity, name in known.items():
        values = page.restore(str(keep(page, "a" * 24, base=identity)), [])
        assert values[1] == name
        if name == "sdxl":
            boxes = dict(zip(page.boxes, values, strict=False))
            assert boxes["width"].maximum == boxes["height"].maximum == 2048


def test_what_a_page_says_of_a_picture_whose_adapter_is_gone(page, monkeypatch):
    said = []
    monkeypatch.setattr(gr, "Info", said.append)
    page.restore(str(keep(page, history.new_owner())), [])
    gone = str(keep(page, history.new_owner(), adapters=[{"name": "<b>.safetensors", "weight": 1, "sha256": "0" * 64}]))
    for told in (page.restore, page.to_compare):
        with pytest.warns(UserWarning, match="Left out: &lt;b&gt;.safetensors"):
            told(gone, [])
    assert said == ["The settings of the picture are back.", "The other settings of the picture are back."]


def test_the_same_adapter_handed_over_again_is_something_new(page):
    tabs, first = page.shared.hand_over("compare", "a", "b")
    assert tabs.selected == "compare" and (first["page"], first["paths"]) == ("compare", ["a", "b"])
    assert page.shared.hand_over("compare", "a", "b")[1] != first


def test_use_these_settings_means_the_picture_whose_settings_are_shown(page):
    request = SimpleNamespace(username=None, session_hash="session")
    settings = ["sprite", [], {}, "", "base", 1, 1.0, 64, 64, 5, 1, False]
    told = list(page.answer_generate(history.new_owner(), "a toy", *settings, request))
    _, _, made, _, picked, details, *_ = told[-1]
    assert picked == made[0] and "a toy" in details.value
    assert told[0][4] is None  # and none while the next ones are made
    assert page.restore(picked, [])[0] == "a toy"


@pytest.mark.parametrize("seed", [-5, 2**53])
def test_a_seed_out_of_range_is_named(page, seed):
    request = SimpleNamespace(username=None, session_hash="session")
    settings = ["sprite", [], {}, "", "base", 1, 1.0, 64, 64, page.seed.preprocess(seed), 1, False]
    [told] = page.answer_generate(history.new_owner(), "a toy", *settings, request)
    assert f"seed {seed}" in told[0]


def test_a_run_that_saved_nothing_yet_is_told_without_where_it_lies(context, page):
    run = write_run(context.runs / "a*run", photos=context.samples / "owl")
    shutil.rmtree(run / "adapter")
    detail = _Detail(context, page.shared, Runs(context.runs))
    told = detail.show(("run", "a*run"))[detail.title].value
    assert str(context.runs) not in told and "no adapter yet" in told and "a\\*run has" in told
    assert "symdream train --resume" in told
