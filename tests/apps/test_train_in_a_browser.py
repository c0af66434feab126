"""The Train and Library pages in a real browser: photos, a run, a reload, a stop, a crash, an end."""

import os
import shutil
import signal
import time

import numpy as np
import pytest
from helpers import browser as browsers
from helpers.browser import select_tab, type_in
from helpers.runs import make_photos
from PIL import Image
from safetensors.numpy import save_file

from symdream.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(browsers.CHROMIUM is None, reason=browsers.WHY_NOT)
pytest.importorskip("playwright")


def say(page, selector, text):
    page.locator(selector, has_text=text).first.wait_for()


def open_box(page, selector):
    """Open a closed accordion; again if the click came while the page was still building it."""
    head = page.locator(f"{selector} > button, {selector} .label-wrap").first
    for _ in range(20):
        head.click()
        page.wait_for_timeout(1_000)
        if "open" in head.get_attribute("class").split():
            return
    raise AssertionError(f"{selector} does not open: {head.get_attribute('class')}")


def alert(page) -> str:
    """The message that the app shows, closed again."""
    toast = page.locator(".toast-body.error").first
    toast.wait_for()
    text = toast.inner_text()
    toast.locator(".toast-close").click()
    # It fades out for a while; the next message must not be looked for while it is still there.
    page.locator(".toast-body.error").first.wait_for(state="detached")
    return text


def test_photos_are_checked_as_they_come(page, tmp_path):
    select_tab(page, "Train")
    folder = make_photos(tmp_path / "photos", count=2, size=(160, 160))
    (folder / "letter.png").write_text("Dear friend")
    (folder / "clip.mp4").write_bytes(bytes(100))
    with Image.open(folder / "00.png") as image:
        image.resize((64, 64)).save(folder / "again.png")
    page.set_input_files("#train-photos input[type=file]", sorted(str(p) for p in folder.iterdir()))
    say(page, "#findings", "letter.png is not an image")
    say(page, "#findings", "clip.mp4 is not an image")  # and the others are taken
    say(page, "#findings", "again.png: almost the same picture as 00.png")
    say(page, "#findings", "small: scaled up 2.0 times to 128 pixels")
    say(page, "#findings", "emoji of your subject")  # noise is no drawing
    alts = [crop.get_attribute("alt") for crop in page.locator("#crops img").all()]
    assert alts == ["00.png", "01.png", "again.png"]

    page.click("#start-training")
    assert "Class noun" in alert(page)
    page.fill("#noun input, #noun textarea", "toy")
    page.click("#start-training")
    assert "letter.png is not an image" in alert(page)
    page.get_by_role("button", name="Take the base sd15").click()
    page.wait_for_function("document.querySelector('#train-base input').value === 'sd15'")
    page.wait_for_function("!document.querySelector('#findings').innerText.includes('emoji of your subject')")


def test_each_problem_of_the_form_has_a_line(page):
    select_tab(page, "Train")
    page.get_by_label("Trigger").fill("")
    page.click("#start-training")
    lines = alert(page).splitlines()
    assert all(any(line.startswith(what) for line in lines) for what in ("Photos", "Class noun", "Trigger")), lines


def test_photos_lie_close_together_on_a_telephone(page, tmp_path):
    select_tab(page, "Train")
    page.set_viewport_size(browsers.PHONE)
    folder = make_photos(tmp_path / "photos", count=7, size=(160, 160))
    page.set_input_files("#train-photos input[type=file]", sorted(str(p) for p in folder.iterdir()))
    page.locator("#crops img").nth(6).wait_for()
    boxes = [crop.bounding_box() for crop in page.locator("#crops .thumbnail-lg").all()]
    tops = sorted({round(box["y"]) for box in boxes})
    assert len(tops) > 1 and tops[1] - tops[0] < boxes[0]["height"] + 24
    bars = page.locator("#crops .grid-wrap").evaluate("box => getComputedStyle(box).overflowY")
    assert bars == "auto"  # none where nothing scrolls


def test_a_long_choice_ends_before_the_arrow(page):
    select_tab(page, "Train")
    page.set_viewport_size(browsers.PHONE)
    room = """box => {
        const input = box.querySelector('input'), style = getComputedStyle(input)
        const end = input.getBoundingClientRect().right - parseFloat(style.paddingRight)
        return [box.querySelector('.dropdown-arrow').getBoundingClientRect().left - end, style.textOverflow]
    }"""
    free, overflow = page.locator("#train-base").evaluate(room)
    assert free >= 0 and overflow == "ellipsis"


def test_a_sample_subject_fills_the_form(page):
    select_tab(page, "Train")
    page.locator("#subject input").click()
    page.get_by_role("option", name="fox", exact=True).click()
    say(page, "#findings", "5 photos, nothing to complain about.")
    assert page.locator("#crops img").count() == 5
    assert page.locator("#noun input, #noun textarea").first.input_value() == "dog"


def test_what_is_wrong_in_the_form_is_told_by_its_labels(page, server):
    select_tab(page, "Train")
    page.locator("#subject input").click()
    page.get_by_role("option", name="fox", exact=True).click()
    say(page, "#findings", "5 photos, nothing to complain about.")
    open_box(page, "#more-training")
    for label, value in (("Steps", 0), ("Rank", -3)):
        page.get_by_label(label, exact=True).fill(str(value))
        page.keyboard.press("Tab")
    page.click("#start-training")
    text = alert(page)
    assert "2 problems in the form" in text and "Rank = -3" in text and "Steps = 0" in text
    assert "adapter." not in text and "training." not in text
    assert not list(server.runs.glob("fox*"))


def test_looking_at_the_runs_opens_no_stream(page):
    """A look at the runs is a request of its own: a stream that is closed while another event comes takes it along."""
    select_tab(page, "Train")
    asked = []
    page.on("request", lambda request: asked.append(request.url.split("gradio_api/")[-1].partition("?")[0]))
    for _ in range(3):
        with page.expect_request(lambda request: "/run/predict" in request.url):
            pass
    assert set(asked) <= {"run/predict", "heartbeat", "app_id"}, asked


def test_the_library_opens_renames_and_deletes_a_file(page, server):
    from symdream.interop.export import export

    export(server.runs / "owl", "kohya", server.runs / "mine.safetensors")
    select_tab(page, "Library")
    page.locator("#shelf button", has_text="mine.safetensors").click()
    say(page, "#card-title", "mine.safetensors")
    say(page, "#facts", "sks bird")
    open_box(page, "#change")
    type_in(page.get_by_label("New name"), "../outside")
    page.get_by_role("button", name="Rename", exact=True).click()
    assert "is no name" in alert(page)
    type_in(page.get_by_label("New name"), "ours")
    page.get_by_role("button", name="Rename", exact=True).click()
    say(page, "#card-title", "ours.safetensors")
    assert sorted(p.name for p in server.runs.glob("ours.*")) == ["ours.safetensors", "ours.txt"]
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Move it to the trash folder").click()
    page.locator("#shelf button", has_text="ours.safetensors").wait_for(state="detached")
    assert not list(server.runs.glob("ours.*"))
    assert len(list((server.runs / ".app" / "trash" / "ours").iterdir())) == 2


def test_the_spectrum_is_of_the_card_that_is_open_and_counts_each_value_once(page, server):
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    file = server.runs / "twelve.safetensors"
    tensors = {"down": np.eye(12, 16, dtype=np.float32), "up": np.eye(16, 12, dtype=np.float32)}
    save_file({f"{stem}.lora_{part}.weight": tensor for part, tensor in tensors.items()}, file)
    try:
        select_tab(page, "Library")
        for card, count in (("twelve.safetensors", 12), ("owl two", 2), ("twelve.safetensors", 12)):
            page.locator("#shelf button", has_text=card).click()
            numbers = [str(number) for number in range(1, count + 1)]
            page.wait_for_function(
                """numbers => {
                    const texts = [...document.querySelectorAll('#spectra svg text')].map(e => e.textContent.trim())
                    return texts.slice(0, texts.indexOf('singular value')).join() === numbers.join()
                }""",
                arg=numbers,
            )
    finally:
        file.unlink()


def test_a_broken_file_is_told_on_its_card_and_the_page_lives_on(page, server):
    broken = server.runs / "broken.safetensors"
    broken.write_bytes((8).to_bytes(8, "little") + b"not json")
    try:
        select_tab(page, "Library")
        page.locator("#shelf button", has_text="broken.safetensors").click()
        say(page, "#card-title", "broken.safetensors")
        page.locator("#shelf button", has_text="owl two").click()
        say(page, "#facts", "sks bird")
    finally:
        broken.unlink()


@pytest.mark.slow
def test_the_whole_story_of_a_run(page, server, tiny_sd1, tmp_path):
    shutil.copytree(tiny_sd1, server.runs / "small", dirs_exist_ok=True)
    run = RunFolder(server.runs / "toy-singlora")
    select_tab(page, "Train")
    photos = make_photos(tmp_path / "photos", size=(160, 160))
    page.set_input_files("#train-photos input[type=file]", sorted(str(p) for p in photos.iterdir()))
    say(page, "#findings", "emoji of your subject")
    page.fill("#noun input, #noun textarea", "toy")
    page.fill("#train-base input", "small")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    open_box(page, "#more-training")
    for label, value in (("Steps", 5000), ("Batch size", 1), ("Steps between pictures", 0), ("Steps between saves", 5)):
        page.get_by_label(label, exact=True).fill(str(value))
        page.keyboard.press("Tab")
    page.click("#start-training")
    say(page, "#run-status", "trains: step")
    page.wait_for_selector("#loss canvas, #loss svg")

    page.reload()
    page.wait_for_selector("#generate")
    select_tab(page, "Train")
    say(page, "#run-status", "trains: step")
    page.get_by_role("button", name="Stop", exact=True).locator("visible=true").click()
    say(page, "#run-status", "stopped after step")
    stopped = run.read_state()["step"]

    page.get_by_role("button", name="Resume", exact=True).click()
    say(page, "#run-status", "trains: step")
    deadline = time.monotonic() + browsers.PATIENCE / 1000
    while run.read_state()["step"] <= stopped and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(run.read_state()["pid"], signal.SIGKILL)
    say(page, "#run-status", "ended without a word")
    assert "Resume; it goes on from step" in page.locator("#run-status").inner_text()

    # The rest of 5000 steps would take minutes.
    saved = max(int(p.name[5:]) for p in run.checkpoints.glob("step-*"))
    run.config.write_text(run.config.read_text().replace("steps = 5000", f"steps = {saved + 3}"))
    page.get_by_role("button", name="Resume", exact=True).click()
    say(page, "#run-status", "is finished")
    page.get_by_role("button", name="Export for ComfyUI and A1111").click()
    say(page, "#run-export", "toy-singlora-kohya")  # the ending is shown apart
    page.get_by_role("button", name="Try it").locator("visible=true").click()
    page.locator(".adapter-row", has_text="toy-singlora").wait_for()
    assert not [text for text in page.complaints if "favicon" not in text]
