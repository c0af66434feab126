"""The story of the Generate and Compare pages, driven in a real browser."""

import re
import shutil
from pathlib import Path

import pytest
from helpers import app_server
from helpers import browser as browsers
from helpers.app_server import write_adapter, write_run
from helpers.browser import choose_adapter, open_page, select_tab, set_number, wait_back
from PIL import Image

from symdream.diffusion.png import read_settings, save_png

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason=browsers.WHY_NOT)
pytest.importorskip("playwright")


def say(page, selector, text):
    page.locator(selector, has_text=text).wait_for()


def generate(page, prompt=None, steps=2):
    """Make pictures with what is set, and wait for them."""
    if prompt is not None:
        page.fill("#prompt textarea", prompt)
    if not page.locator("#steps").is_visible():
        page.click("#more .label-wrap")
    set_number(page, "#steps", steps)
    mark_old(page)
    page.click("#generate")
    wait_done(page)


def mark_old(page):
    """Mark what the status says now, so that nobody takes it for news."""
    page.evaluate("document.querySelector('#status [role=status]').dataset.old = 'yes'")


def wait_done(page):
    page.locator("#status [role=status]:not([data-old])", has_text="done.").wait_for()
    page.wait_for_selector("#gallery img")


def seed(page):
    return page.input_value("#seed input")


def download(page, tmp_path) -> Path:
    """The first picture of the gallery, as the browser saves it."""
    button = page.locator('#gallery [aria-label="Download"]')
    if not button.is_visible():
        page.locator("#gallery .thumbnail-item").first.click()
    with page.expect_download() as waited:
        button.click()
    target = tmp_path / waited.value.suggested_filename
    waited.value.save_as(target)
    return target


def test_a_picture_is_made_saved_restored_and_remembered(page, server, tmp_path):
    choose_adapter(page, "owl two")
    page.wait_for_selector(".adapter-row")
    page.fill("#prompt textarea", "a 3d render of a bird on a red background")
    page.click(".insert-trigger")
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('a sks bird on')")
    set_number(page, ".adapter-weight", 0.35)
    generate(page)
    used = seed(page)
    file = download(page, tmp_path)
    settings, pixels = read_settings(file), Image.open(file).tobytes()
    assert settings["prompt"] == "a 3d render of a sks bird on a red background"
    assert settings["adapters"] == [{"name": "owl two", "weight": 0.35}] and str(settings["seed"]) == used

    # Dropped into a page that knows nothing, the picture brings everything back.
    page.evaluate("sessionStorage.clear()")
    page.reload()
    page.wait_for_selector("#generate")
    assert page.input_value("#prompt textarea") == ""
    page.get_by_text("Restore the settings of a picture").click()
    page.set_input_files("#dropped input[type=file]", file)
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('sks bird')")
    page.wait_for_selector(".adapter-row")
    assert seed(page) == used and not page.is_checked("#surprise input")
    page.wait_for_function("document.querySelector('.adapter-weight input[type=number]').value == '0.35'")
    generate(page)
    again = download(page, tmp_path)
    assert read_settings(again) == settings
    assert Image.open(again).tobytes() == pixels

    # And the page remembers both, without giving them to another browser.
    page.locator("#history-box .label-wrap").click()
    page.wait_for_function("document.querySelectorAll('#history img').length >= 2")
    stranger = open_page(page.context.browser, server.url)
    stranger.locator("#history-box .label-wrap").click()
    stranger.wait_for_timeout(1000)
    assert stranger.locator("#history img").count() == 0
    stranger.context.close()
    assert not page.complaints


def test_a_picture_of_another_base_brings_its_own_sizes_back(page, tmp_path):
    made = {
        "prompt": "a photo of a sks dog", "negative_prompt": "blur", "seed": 7, "steps": 41, "guidance": 6.5,
        "sampler": "base", "width": 768, "height": 448, "base": "sd15", "adapter": None,
    }  # fmt: skip
    file = tmp_path / "made elsewhere.png"
    save_png(Image.new("RGB", (768, 448)), file, made)
    page.get_by_text("Restore the settings of a picture").click()
    page.set_input_files("#dropped input[type=file]", file)
    page.wait_for_function("document.querySelector('#prompt textarea').value.includes('sks dog')")
    page.wait_for_timeout(2000)  # whatever the change of base would set off is done
    page.click("#more .label-wrap")
    shown = {name: page.input_value(f"#{name} input[type=number]") for name in ("steps", "width", "height")}
    assert shown == {"steps": "41", "width": "768", "height": "448"} and "sd15" in page.input_value("#base input")
    assert page.get_attribute("#width input[type=range]", "max") == "1024"  # this base's, not this picture's

    # A base that the user chooses brings the sizes that suit it.
    page.click("#base input")
    page.locator("[role=option]", has_text="sprite").click()
    page.wait_for_function("document.querySelector('#width input[type=number]').value == '128'")
    assert page.input_value("#steps input[type=number]") == "25"


@pytest.mark.parametrize("uploaded", [False, True])
def test_what_is_pointed_at_in_the_list_of_adapters_is_what_is_chosen(page, server, tmp_path, uploaded):
    """Over a slow link an adapter that came after the page was loaded, or after a file was dropped, moves nothing in
    the list that is open."""
    page.set_viewport_size({"width": 1440, "height": 1600})  # so that the list opens downwards
    try:
        if uploaded:
            write_run(server.runs / "made before", photos=server.runs)
            file = server.runs / "owl" / "adapter" / "unet" / "adapter_model.safetensors"
            page.set_input_files(".drop-adapters input[type=file]", shutil.copy(file, tmp_path / "mine.safetensors"))
            page.locator(".adapter-row", has_text="mine").wait_for()
        write_run(server.runs / "just made", photos=server.runs)
        page.evaluate(
            """() => {
                const fetch = window.fetch
                window.fetch = (...asked) => new Promise(go => setTimeout(go, 1000)).then(() => fetch(...asked))
            }"""
        )
        page.locator("[role=tabpanel]:visible .adapters input").first.click()
        place = page.locator("[role=option]", has_text="owl two").first.bounding_box()
        page.locator("[role=option]", has_text="just made").wait_for()
        page.mouse.click(place["x"] + 20, place["y"] + place["height"] / 2)
        page.locator(".adapter-row", has_text="owl two").wait_for()
        page.keyboard.press("Escape")
        page.reload()
        page.wait_for_selector("#generate")
        choose_adapter(page, "just made")
    finally:
        for name in ("just made", "made before"):
            shutil.rmtree(server.runs / name, ignore_errors=True)


def test_the_adapters_of_a_picture_are_chosen_on_the_compare_page(page):
    choose_adapter(page, "owl two")
    page.wait_for_selector(".adapter-row")
    generate(page, "a 3d render of a sks bird on a red background", steps=1)
    page.click("#to-compare")
    page.locator("#compare").wait_for()
    page.locator("[role=tabpanel]:visible .adapter-row", has_text="owl two").wait_for()


def test_the_weight_changes_the_picture_and_off_is_the_base_alone(page, tmp_path):
    page.uncheck("#surprise input")
    prompt = "a 3d render of a sks bird on a blue background"
    generate(page, prompt)
    alone = Image.open(download(page, tmp_path)).tobytes()
    choose_adapter(page, "owl two")
    page.wait_for_selector(".adapter-row")
    pictures = {}
    for weight in (0.5, 2):
        set_number(page, ".adapter-weight", weight)
        page.keyboard.press("Escape")
        generate(page)
        file = download(page, tmp_path)
        assert read_settings(file)["adapters"] == [{"name": "owl two", "weight": weight}]
        pictures[weight] = Image.open(file).tobytes()
    page.uncheck(".adapter-on input")
    generate(page)
    off = download(page, tmp_path)
    assert not read_settings(off)["adapters"]
    assert Image.open(off).tobytes() == alone and len({alone, *pictures.values()}) == 3


def test_a_picture_is_made_with_the_weight_that_the_page_shows_at_the_click(page):
    """Whatever was typed before, however slow the link: what is emptied or out of range is shown as the limit."""
    choose_adapter(page, "owl two")
    page.fill("#prompt textarea", "a sks bird")
    page.evaluate(
        """() => {
            const fetch = window.fetch
            window.fetch = (...asked) => new Promise(go => setTimeout(go, 500)).then(() => fetch(...asked))
        }"""
    )
    box = page.locator(".adapter-weight input[type=number]")
    for typed, shown in (("", "0"), ("0.7", "0.7"), ("-1", "0"), ("3", "2"), ("0", "0")):
        box.fill("")
        box.press_sequentially(typed)
        generate(page, steps=1)
        assert box.input_value() == shown
        say(page, "#details", re.compile(rf"owl two × {shown}(?![.\d])"))
    assert not page.complaints


def test_a_stop_ends_it_at_once_and_the_next_one_works(page):
    page.fill("#prompt textarea", "a 3d render of a cat on a red background")
    page.click("#more .label-wrap")
    set_number(page, "#steps", 100)
    set_number(page, "#count", 4)
    page.click("#generate")
    say(page, "#status", re.compile(r"Step \d+ of 100"))  # whichever is caught: each is told for moments only
    page.click("#stop")
    say(page, "#status", "Stopped.")
    assert page.is_disabled("#stop")
    set_number(page, "#count", 1)
    generate(page)


def test_who_waits_behind_another_takes_the_request_back(browser, page, server):
    """And the other one's goes on."""
    page.fill("#prompt textarea", "a 3d render of a cat on a red background")
    page.click("#more .label-wrap")
    set_number(page, "#steps", 100)
    set_number(page, "#count", 16)
    page.click("#generate")
    say(page, "#status", re.compile(r"Step \d+ of 400"))
    behind = open_page(browser, server.url)
    behind.fill("#prompt textarea", "a 3d render of a dog")
    behind.click("#generate")
    say(behind, "#status", "queue: 1/1")
    behind.click("#stop")
    say(behind, "#status", "Stopped.")
    assert behind.is_disabled("#stop") and page.is_enabled("#stop")
    page.click("#stop")
    page.wait_for_function("document.querySelector('#stop').disabled")
    assert behind.locator("#gallery img").count() == 0
    behind.context.close()


def finish_the_first_of_four_batches(page):
    page.fill("#prompt textarea", "a 3d render of a cat on a red background")
    page.click("#more .label-wrap")
    set_number(page, "#steps", 12)
    set_number(page, "#count", 16)  # four batches of 12 steps
    page.click("#generate")
    say(page, "#status", re.compile(r"Step (1[4-9]|[23]\d) of 48"))


def test_what_was_finished_before_a_stop_is_kept(page, tmp_path):
    finish_the_first_of_four_batches(page)
    page.click("#stop")
    say(page, "#status", re.compile("(4|8|12) of 16 pictures were finished"))
    assert read_settings(download(page, tmp_path))["steps"] == 12


def test_who_leaves_the_page_finds_what_was_finished_in_the_history(page):
    finish_the_first_of_four_batches(page)
    page.reload()
    page.locator("#history-box .label-wrap").click()
    page.wait_for_function("document.querySelectorAll('#history img').length >= 4")
    count = page.locator("#history img").count()

    select_tab(page, "Compare")
    choose_adapter(page, "owl two")
    page.fill("#compare-prompts textarea", "a {subject} on a red background\na {subject} on a blue background")
    set_number(page, "#compare-steps", 12)
    page.click("#compare")
    say(page, "#compare-status", re.compile(r"Step (1[3-9]|2\d) of 24"))  # the base alone is drawn by then
    page.reload()
    page.locator("#history-box .label-wrap").click()
    page.wait_for_function(f"document.querySelectorAll('#history img').length >= {count + 4}")


def test_unfinished_pictures_are_shown_with_the_time_left(page):
    page.fill("#prompt textarea", "a 3d render of a cat on a red background")
    page.click("#more .label-wrap")
    set_number(page, "#steps", 40)
    page.click("#generate")
    say(page, "#gallery", "on its way")
    say(page, "#status", "s left")
    assert page.locator("#status progress").count() == 1
    page.click("#stop")
    say(page, "#status", "Stopped.")


def test_wrong_requests_are_told_in_the_page(page, tmp_path):
    page.click("#generate")
    say(page, "#status", "prompt")
    text = tmp_path / "renamed.safetensors"
    text.write_text("only words")
    page.set_input_files(".drop-adapters input[type=file]", text)
    page.get_by_test_id("toast-body").filter(has_text="renamed.safetensors").wait_for()
    not_ours = tmp_path / "plain.png"
    Image.new("RGB", (64, 64), "red").save(not_ours)
    page.get_by_text("Restore the settings of a picture").click()
    page.set_input_files("#dropped input[type=file]", not_ours)
    page.get_by_text("does not carry settings").wait_for()
    generate(page, "a 3d render of a dog on a red background")


@pytest.mark.parametrize("why", ["no adapter", "connection lost"])
def test_after_a_wrong_file_the_place_to_drop_takes_the_next_one(page, tmp_path, why):
    text = tmp_path / "note.txt"
    text.write_text("only words")
    if why == "connection lost":
        page.route("**/upload*", lambda route: route.abort())
    page.set_input_files(".drop-adapters input[type=file]", text)
    page.get_by_test_id("toast-body").wait_for()
    page.wait_for_timeout(500)
    with page.expect_file_chooser(timeout=20_000):
        place = page.locator("[role=tabpanel]:visible .drop-adapters").bounding_box()
        page.mouse.click(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)


def test_compare_slider_and_blind_test(page, tmp_path):
    select_tab(page, "Compare")
    page.wait_for_selector("#compare")
    choose_adapter(page, "owl two")
    page.fill("#compare-prompts textarea", "a 3d render of a {subject} on a red background")
    set_number(page, "#compare-steps", 2)
    page.click("#compare")
    say(page, "#compare-status", "Done.")
    page.wait_for_selector("#grid img")
    told = page.locator("#grid img").get_attribute("alt")
    assert "owl two" in told and "a {subject} on a red background, seed 1" in told
    say(page, "#means", "base alone")
    select_tab(page, "Before / after")
    page.wait_for_selector("#slider img")
    assert page.locator("#slider img").count() >= 2
    select_tab(page, "Blind test")
    page.click("#blind-start")
    for number in (1, 2):  # two seeds, two variants: one pair a seed
        say(page, "#blind-text", f"{number} of 2")
        alts = [page.locator(f"#blind-{side} img").get_attribute("alt") for side in "ab"]
        assert alts == ["picture A", "picture B"]
        assert "owl two" not in page.inner_text("#blind-text")
        page.click("#choose-a")
        if number == 1:  # a mistake ends no test
            page.get_by_label("Seeds").fill("x")
            page.click("#compare")
            say(page, "#compare-status", "seed")
            page.wait_for_timeout(1000)
    say(page, "#blind-text", "higher DINO")
    with page.expect_download() as waited:
        page.click("#votes")
    waited.value.save_as(tmp_path / "votes.csv")
    lines = (tmp_path / "votes.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("prompt_a,prompt_b,seed,shown_as_a,shown_as_b,choice,dino_a,dino_b")
    assert all(",A," in line for line in lines[1:])


def test_compare_across_weights(page):
    select_tab(page, "Compare")
    choose_adapter(page, "owl two")
    page.get_by_label("weights of one adapter").check()
    page.wait_for_selector("#weights")
    page.fill("#compare-prompts textarea", "a 3d render of a {subject} on a red background")
    set_number(page, "#compare-steps", 2)
    page.click("#compare")
    say(page, "#compare-status", "Done.")
    say(page, "#means", "× 1.5")
    # The history follows, and what is clicked there is what is told.
    select_tab(page, "Generate")
    page.locator("#history-box .label-wrap").click()
    page.wait_for_function("document.querySelectorAll('#history img').length >= 8")
    page.locator("#history button.thumbnail-item").first.click()
    say(page, "#details", "owl two × 1.5")
    page.get_by_role("button", name="Move all to the trash").click()
    page.wait_for_function("document.querySelectorAll('#history img').length == 0")
    page.locator("#details").wait_for(state="hidden")


def test_the_keyboard_alone_makes_a_picture(page):
    """Tab reaches the controls in the order in which they stand, each with a name that a screen reader can say."""
    page.locator("#prompt textarea").focus()
    page.keyboard.type("a 3d render of a cat on a red background")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "generate"
    page.keyboard.press("Enter")
    wait_done(page)


@pytest.mark.parametrize("tab", ["Generate", "Compare"])
def test_every_control_has_a_name(page, tab):
    select_tab(page, tab)
    page.wait_for_timeout(500)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, select')].filter(e => e.offsetParent !== null
        && !(e.getAttribute('aria-label') || e.getAttribute('aria-labelledby') || e.title || e.innerText.trim()
        || e.labels?.length || e.placeholder)).map(e => e.outerHTML.slice(0, 200))"""
    )
    assert not nameless


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_to_mend(browser, server, dark):
    """Contrast, names, roles: WCAG 2 A and AA as axe-core checks them."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = open_page(browser, server.url, dark=dark)
    choose_adapter(page, "owl two")
    page.wait_for_selector(".adapter-row")
    page.click("#more .label-wrap")
    page.click("#examples .label-wrap")
    page.wait_for_timeout(1000)
    found = []
    for tab in ("Generate", "Compare", "Train", "Library"):
        select_tab(page, tab)
        if tab == "Library":
            page.locator("#shelf button", has_text="owl two").click()
            page.locator("#facts", has_text="sks bird").wait_for()
            page.locator("#change .label-wrap").click()
        page.wait_for_timeout(1000)
        result = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa"]})
        # gradio's own placeholder of an empty picture has a name on a plain div.
        found += [
            (tab, v["id"], [node["html"][:150] for node in v["nodes"]])
            for v in result.response["violations"]
            if v["id"] != "aria-prohibited-attr"
        ]
    page.context.close()
    assert not found


@pytest.mark.parametrize("dark", [False, True])
def test_the_focus_of_the_keyboard_is_seen(browser, server, dark):
    page = open_page(browser, server.url, dark=dark)
    outlines = set()
    for selector in ("#count [type=range]", "#surprise input", "#across input"):
        if "across" in selector:
            select_tab(page, "Compare")
        page.locator(selector).first.focus()
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Tab")
        outlines.add(page.evaluate("getComputedStyle(document.activeElement).outline"))
    page.context.close()
    assert outlines == {f"rgb({'129, 140, 248' if dark else '99, 102, 241'}) solid 2px"}


@pytest.mark.parametrize("dark", [False, True])
def test_scrollbars_have_the_colour_of_the_page(browser, server, dark):
    page = open_page(browser, server.url, dark=dark)
    scheme = page.evaluate("getComputedStyle(document.documentElement).colorScheme")
    page.context.close()
    assert ("dark" in scheme) == dark


def test_each_page_has_one_tab(page):
    bar = page.locator("[role=tablist]").first
    assert bar.get_by_role("tab").all_inner_texts() == ["Generate", "Compare", "Train", "Library"]


@pytest.mark.parametrize("size", [browsers.DESKTOP, browsers.PHONE])
@pytest.mark.parametrize("tab", ["Generate", "Compare"])
def test_nothing_is_wider_than_the_window(browser, server, size, tab):
    page = open_page(browser, server.url, size=size)
    tabs = page.get_by_role("tab", name=tab, exact=True)
    if not tabs.first.is_visible():
        page.get_by_label("More tabs").click()
        page.get_by_text(tab, exact=True).last.click()
    else:
        tabs.first.click()
    page.wait_for_timeout(500)
    width = page.evaluate("document.documentElement.scrollWidth")
    page.context.close()
    assert width <= size["width"]


def test_a_page_whose_login_is_gone_says_so(browser, tmp_path):
    server = app_server.start(tmp_path / "runs", env={"SYMDREAM_APP_AUTH": "ann:secret"})
    context = browser.new_context(viewport=browsers.PHONE)
    on_top = "e => { const r = e.getClientRects()[0]; return document.elementFromPoint(r.x + 5, r.y + 5) === e; }"
    (adapter := tmp_path / "mine.safetensors").write_bytes(bytes(100))

    def log_in(page):
        page.goto(server.url)
        page.locator("input").nth(1).wait_for()
        for field, text in zip(page.locator("input").all(), ("ann", "secret"), strict=True):
            field.fill(text)
        page.keyboard.press("Enter")
        page.wait_for_selector("#generate")

    def log_out(page):
        page.goto(server.url)
        page.get_by_role("link", name="Log out").click()
        page.locator("input[type=password]").wait_for()

    try:
        page, other = context.new_page(), context.new_page()
        log_in(page)
        assert page.locator("#signed-out").count() == 0
        wait_back(page)
        page.fill("#prompt textarea", "anna's")
        page.wait_for_function('Object.values(sessionStorage).some(kept => kept.includes("anna\'s"))')
        log_out(page)  # which leaves nothing to whoever logs in next
        assert page.evaluate("sessionStorage.length") == 0
        log_in(page)
        assert page.input_value("#prompt textarea") == ""
        log_out(other)
        page.click("#generate")
        told = page.get_by_role("alert").filter(has_text="You are not logged in any more: reload the page.")
        told.wait_for()
        log_in(other)
        page.click("#generate")
        told.wait_for(state="detached")
        log_out(other)
        page.locator(".drop-adapters input[type=file]").first.set_input_files(str(adapter))
        page.locator(".toast-body").first.wait_for()
        assert told.get_by_role("link").evaluate(on_top)  # of the toast
        told.get_by_role("link").click()
        page.locator("input[type=password]").wait_for()
    finally:
        context.close()
        app_server.stop(server)


def test_a_fresh_page_tells_what_is_loaded_now(browser, server):
    page = open_page(browser, server.url)
    generate(page, "a 3d render of a cat on a red background", steps=1)
    page.reload()
    say(page, "#status", "sprite is loaded")
    page.context.close()


def test_a_card_of_the_library_is_called_what_is_written_on_it(page):
    select_tab(page, "Library")
    page.locator("#shelf").get_by_role("button", name=re.compile("^owl two sks bird")).wait_for()


def write_files(server, folder, *names):
    """Files of these names, each of another content, none in the runs folder."""
    files = []
    for seed, name in enumerate(names, 20):
        run = write_adapter(folder / f"run {seed}", seed=seed)
        files.append(folder / str(seed) / name)
        files[-1].parent.mkdir()
        shutil.move(run / "adapter" / "unet" / "adapter_model.safetensors", files[-1])
    return files


def drop(page, files):
    page.locator("[role=tabpanel]:visible .drop-adapters input[type=file]").set_input_files(files)


def rows(page):
    return page.locator("[role=tabpanel]:visible .adapter-row")


def test_the_settings_of_a_picture_bring_dropped_files_back(page, server, tmp_path):
    choose_adapter(page, "owl two")
    drop(page, write_files(server, tmp_path, "foreign.safetensors", "few.safetensors"))
    rows(page).nth(2).wait_for()
    generate(page, "a 3d render of a sks bird on a red background", steps=1)
    page.click("#use")
    page.get_by_text("The settings of the picture are back.").wait_for()
    page.wait_for_timeout(1000)
    told = [row.inner_text() for row in rows(page).all()]
    assert [text.split(" ·")[0] for text in told] == ["owl two", "foreign.safetensors", "few.safetensors"]
    page.click("#to-compare")
    page.locator("#compare").wait_for()
    rows(page).nth(2).wait_for()
    assert page.get_by_text("Left out").count() == 0


def test_two_dropped_files_of_one_name_are_told_apart(page, server, tmp_path):
    name = "pytorch_lora_weights.safetensors"
    select_tab(page, "Compare")
    drop(page, write_files(server, tmp_path, name, name))
    rows(page).nth(1).wait_for()
    first, second = numbered = [f"{name} ({number})" for number in (1, 2)]
    assert [row.inner_text().split(" ·")[0] for row in rows(page).all()] == numbered
    for chip in numbered:
        page.locator("[role=tabpanel]:visible .adapters", has_text=chip).wait_for()
    page.fill("#compare-prompts textarea", "a 3d render of a {subject} on a red background")
    set_number(page, "#compare-steps", 1)
    page.click("#compare")
    say(page, "#compare-status", "Done.")
    told = page.locator("#grid img").get_attribute("alt")
    assert f"Across: base alone, {first}, {second}." in told
    # The page for single pictures has them by the same names.
    select_tab(page, "Generate")
    choose_adapter(page, second)
    assert page.get_by_label(f"Weight of {second}").count() > 0
