"""What stands in the pages' boxes is there again after a reload and a restart of the app, in a real browser."""

import shutil

import pytest
from helpers import app_server
from helpers import browser as browsers
from helpers.browser import choose_adapter, open_page, select_tab, set_number, wait_back
from helpers.runs import make_photos

gr = pytest.importorskip("gradio")
pytest.importorskip("playwright")

from symdream_apps.context import Context  # noqa: E402
from symdream_apps.draft import Draft  # noqa: E402

COUNT_ADDED = """() => {
    window.added = 0;
    const count = records => { for (const record of records) window.added += record.addedNodes.length; };
    new MutationObserver(count).observe(document.body, {childList: true});
}"""

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason=browsers.WHY_NOT)


def reload(page):
    page.wait_for_timeout(500)  # the browser keeps a change when it has drawn it
    page.reload()
    page.wait_for_selector("#generate")
    wait_back(page)


def number(page, selector):
    return float(page.input_value(f"{selector} input[type=number]"))


def panel(page):
    return page.locator("[role=tabpanel]:visible")


def test_the_boxes_of_the_generate_page_are_back(page, server, tmp_path):
    choose_adapter(page, "owl two")
    file = server.runs / "owl" / "adapter" / "unet" / "adapter_model.safetensors"
    page.set_input_files(".drop-adapters input[type=file]", shutil.copy(file, tmp_path / "mine.safetensors"))
    page.locator(".adapter-row", has_text="mine").wait_for()
    row = page.locator(".adapter-row", has_text="owl two")
    row.locator("input[type=number]").fill("0.35")
    page.keyboard.press("Tab")
    page.locator(".adapter-row", has_text="mine").locator(".adapter-on input").uncheck()
    page.fill("#prompt textarea", "a 3d render of a {subject}\non a red background")
    page.click("#more .label-wrap")
    page.get_by_label("Negative prompt").first.fill("blur")
    for selector, value in (("#steps", 7), ("#width", 200), ("#count", 3)):
        set_number(page, selector, value)
    page.uncheck("#surprise input")
    page.fill("#seed input", "4000000000")
    page.keyboard.press("Tab")

    reload(page)
    page.locator(".adapter-row", has_text="mine").wait_for()
    assert page.input_value("#prompt textarea") == "a 3d render of a {subject}\non a red background"
    assert page.locator(".adapter-row").count() == 2
    assert page.locator(".adapter-row", has_text="owl two").locator("input[type=number]").input_value() == "0.35"
    assert not page.locator(".adapter-row", has_text="mine").locator(".adapter-on input").is_checked()
    page.click("#more .label-wrap")
    assert page.get_by_label("Negative prompt").first.input_value() == "blur"
    assert [number(page, selector) for selector in ("#steps", "#width", "#count")] == [7, 200, 3]
    assert page.input_value("#seed input") == "4000000000" and not page.is_checked("#surprise input")
    assert not page.complaints


def test_the_boxes_of_the_compare_page_are_back(page, tmp_path):
    select_tab(page, "Compare")
    choose_adapter(page, "owl")
    page.get_by_label("weights of one adapter").check()
    page.locator("#weights").get_by_label("0.5", exact=True).uncheck()
    page.fill("#compare-prompts textarea", "a flat icon of a {subject}")
    set_number(page, "#compare-steps", 9)
    page.get_by_text("Photos of the subject, for the scores").click()
    photos = sorted(make_photos(tmp_path / "photos").iterdir())
    panel(page).locator("input[type=file]").last.set_input_files([str(photo) for photo in photos])
    panel(page).get_by_text(photos[0].stem).first.wait_for()

    reload(page)
    select_tab(page, "Compare")
    panel(page).locator(".adapter-row", has_text="owl").wait_for()
    assert not page.locator("#weights").get_by_label("0.5", exact=True).is_checked()
    assert page.input_value("#compare-prompts textarea") == "a flat icon of a {subject}"
    assert number(page, "#compare-steps") == 9
    page.get_by_text("Photos of the subject, for the scores").click()
    panel(page).get_by_text(photos[0].stem).first.wait_for()
    assert not page.complaints


def test_the_boxes_of_the_train_page_are_back(page, tmp_path):
    """Photos and captions, too; and a preset does not set the steps once more."""
    select_tab(page, "Train")
    photos = sorted(make_photos(tmp_path / "photos", size=(160, 160)).iterdir())
    page.set_input_files("#train-photos input[type=file]", [str(photo) for photo in photos])
    page.locator("#findings", has_text="emoji of your subject").wait_for()
    page.locator("#captions .label-wrap").click()
    page.locator("#captions [data-row='1'][data-col='1']").dblclick()
    page.keyboard.type("a {subject} on a table")
    page.keyboard.press("Enter")
    page.wait_for_function("Object.values(sessionStorage).some(kept => kept.includes('on a table'))")
    page.fill("#noun input, #noun textarea", "toy")
    page.get_by_label("quality", exact=True).check()
    page.click("#more-training .label-wrap")
    page.wait_for_timeout(1500)  # the preset's steps
    page.get_by_label("Steps", exact=True).locator("visible=true").fill("123")
    page.keyboard.press("Tab")

    reload(page)
    select_tab(page, "Train")
    page.locator("#findings", has_text="emoji of your subject").wait_for()
    assert page.locator("#crops img").count() == len(photos)
    page.locator("#captions .label-wrap").click()
    page.locator("#captions [data-row='1'][data-col='1']", has_text="a {subject} on a table").wait_for()
    assert page.input_value("#noun input, #noun textarea") == "toy"
    assert page.get_by_label("quality", exact=True).is_checked()
    page.click("#more-training .label-wrap")
    page.wait_for_timeout(1500)
    assert page.get_by_label("Steps", exact=True).locator("visible=true").input_value() == "123"
    assert not page.complaints


def test_what_is_gone_meanwhile_is_told_and_the_rest_is_back(page, server, tmp_path):
    shutil.copytree(server.runs / "owl", server.runs / "gone soon")
    page.reload()
    wait_back(page)
    choose_adapter(page, "owl two")
    choose_adapter(page, "gone soon")
    page.fill("#prompt textarea", "a sks bird")
    page.wait_for_timeout(500)
    shutil.rmtree(server.runs / "gone soon")
    reload(page)
    page.locator(".toast-body", has_text="Not brought back, since not here any more: gone soon.").wait_for()
    page.locator(".adapter-row", has_text="owl two").wait_for()
    assert page.locator(".adapter-row").count() == 1
    assert page.input_value("#prompt textarea") == "a sks bird"


def test_dropped_files_keep_their_numbers_and_those_that_are_not_chosen_their_place(page, server, tmp_path):
    for place, run in enumerate(("owl", "owl two")):
        (folder := tmp_path / run).mkdir()
        file = server.runs / run / "adapter" / "unet" / "adapter_model.safetensors"
        page.set_input_files(".drop-adapters input[type=file]", shutil.copy(file, folder / "mine.safetensors"))
        page.locator(".adapter-row", has_text="mine.safetensors").nth(place).wait_for()
    page.locator(".adapters .token-remove").first.click()
    page.wait_for_function("document.querySelectorAll('.adapter-row').length === 1")
    for _ in range(2):
        reload(page)
        page.locator(".adapter-row", has_text="mine.safetensors (2)").wait_for()
        assert page.locator(".adapter-row").count() == 1
    choose_adapter(page, "mine.safetensors (1)")


def test_another_tab_starts_empty_and_nothing_sets_its_boxes(page, server):
    page.fill("#prompt textarea", "a sks bird")
    page.wait_for_timeout(500)
    other = page.context.new_page()
    answers = []
    other.on("response", lambda response: answers.append(response) if "/run/predict" in response.url else None)
    other.goto(server.url)
    wait_back(other)
    other.wait_for_timeout(2000)
    assert other.input_value("#prompt textarea") == ""
    set_at_once = [len(answer.json()["data"]) for answer in answers]
    assert max(set_at_once) == 4  # the lists of adapters of two pages, as Dropdown and as State


def test_a_page_outlives_its_app(browser, tmp_path):
    runs = tmp_path / "runs"
    app_server.write_run(runs / "owl", photos=tmp_path)
    server = app_server.start(runs)
    page = open_page(browser, server.url)
    try:
        choose_adapter(page, "owl")
        page.fill("#prompt textarea", "a {subject} on a red background")
        page.click("#more .label-wrap")
        set_number(page, "#steps", 1)
        app_server.stop(server)
        page.get_by_role("alert").filter(has_text="The app does not answer.").wait_for()
        page.evaluate(COUNT_ADDED)
        page.wait_for_timeout(11_000)  # two more looks
        assert page.evaluate("window.added") == 0  # or a screen reader would say it each time
        server = app_server.start(runs, port=int(server.url.rpartition(":")[2]))
        page.wait_for_function("window.added === undefined && window.symdreamIsBack")
        page.locator(".adapter-row", has_text="owl").wait_for()
        assert page.locator("#lost-app").count() == 0
        page.click("#generate")
        page.locator("#status", has_text="1 picture done.").wait_for()
        page.locator("#details", has_text="a sks bird on a red background").wait_for()
        page.locator("#details", has_text="owl × 1").wait_for()
    finally:
        page.context.close()
        app_server.stop(server)


def test_a_draft_that_cannot_be_read_does_not_stand_in_the_pages_way(tmp_path):
    context = Context.at(tmp_path)
    with gr.Blocks():
        draft = Draft(context, gr.State([]))
        for page in ("generate", "train"):
            box = gr.Textbox()
            draft.add(page, {"prompt": box}, lambda kept, files: [kept["prompt"].strip()], [box])
    left = gr.skip()
    assert draft.bring_back({"generate": {"prompt": " a "}}) == [left, "a", left, [], []]
    for wrong in ({"promt": 1}, {"prompt": 1}, 1, []):
        assert draft.bring_back({"generate": wrong, "train": {"prompt": "b"}}) == [left, left, "b", [], []]
