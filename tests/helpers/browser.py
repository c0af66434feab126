"""Debian's chromium, headless, through playwright."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WHY_NOT = "no chromium on this machine: the browser tests did not run (Debian: apt-get install chromium)"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PATIENCE = 240_000  # milliseconds: a busy machine must not fail a test
DESKTOP, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}


@contextmanager
def opened() -> Iterator:
    """A browser; no download of playwright's own is needed."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def open_page(browser, url: str, *, size: dict = DESKTOP, dark: bool = False):
    """A page of the app, laid out, with what it asks of the app as it is loaded; `page.complaints` gathers what the
    browser's console complains about."""
    context = browser.new_context(viewport=size, reduced_motion="reduce", accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.complaints = []
    page.on("console", lambda m: page.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    asked = []
    page.on("request", note := lambda request: asked.append(request) if "/run/predict" in request.url else None)
    with page.expect_request(lambda request: "/run/predict" in request.url):
        page.goto(url + ("?__theme=dark" if dark else "?__theme=light"))
        page.wait_for_selector("#generate")
    for request in asked:
        request.response().finished()
    page.remove_listener("request", note)
    wait_back(page)
    return page


def wait_back(page) -> None:
    """Until the page, loaded anew, has back what stood in its boxes, and keeps what is put into them."""
    page.wait_for_function("window.symdreamIsBack")


def choose_adapter(page, name: str) -> None:
    """Pick `name` from the list of adapters on the tab that is open."""
    box = page.locator("[role=tabpanel]:visible .adapters").first
    exactly = re.compile(rf"^\s*(✓\s*)?{re.escape(name)}(?![-/\w])")  # not "owl-two" or "owl/a.safetensors" for "owl"
    box.locator("input").click()
    box.locator("[role=option]").filter(has_text=exactly).first.click()
    page.keyboard.press("Escape")
    box.locator("input").blur()  # the list opens on focus, so the next click must bring it
    page.locator("[role=tabpanel]:visible .adapter-row", has_text=exactly).wait_for()


def select_tab(page, label: str) -> None:
    page.get_by_role("tab", name=label, exact=True).click()


def set_number(page, selector: str, value) -> None:
    """The number box of a slider; its knob follows once the page has taken the value in."""
    box, knob = (page.locator(f"{selector} input[type={kind}]") for kind in ("number", "range"))
    for _ in range(100):
        box.fill(str(value))
        page.keyboard.press("Tab")
        page.wait_for_timeout(50)
        if float(box.input_value()) == float(knob.input_value()) == float(value):
            return
    raise AssertionError(f"{selector} does not take {value}: {box.input_value()}, {knob.input_value()}")


def type_in(field, text: str) -> None:
    """Fill a text field, again if an answer of the app that was still on its way overwrote it."""
    for _ in range(100):
        field.fill(text)
        field.page.wait_for_timeout(300)
        if field.input_value() == text:
            return
    raise AssertionError(f"the field does not keep {text!r}: {field.input_value()!r}")
