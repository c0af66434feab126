"""The pictures of the app in docs/img/app: every page, on a desktop and on a phone, light and dark.

    symdream demo -o runs/owl; symdream demo --method symlora -o runs/owl-symlora
    python recipes/screenshots.py --runs runs --adapters owl owl-symlora

Starts the app on the folder, drives it in Debian's chromium, and writes WebP files of some tens of kilobytes.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests"))

from helpers import app_server, browser  # noqa: E402

PLOTS = ("train", "library")
SUBJECT, RUN = "fox", "fox-singlora"  # what the Train page is shown with

PROMPTS = (
    "a 3d render of a {subject} on a checkered blue background\n"
    "a 3d render of a {subject} on a striped purple background"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the runs folder that the app shows")
    parser.add_argument("--adapters", nargs="+", required=True, help="names of adapters in it; the first is tried")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("-o", "--output", type=Path, default=REPOSITORY / "docs" / "img" / "app")
    parser.add_argument("--pages", nargs="+", default=["generate", "compare", "train", "library"])
    parser.add_argument("--url", help="an app that runs already (None: start one on --runs)")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    server = None if args.url else app_server.start(args.runs.resolve())
    url = args.url or server.url
    try:
        with browser.opened() as opened:
            for page_name in args.pages:
                # Plots take their colours when they are drawn, so pages with plots are opened anew in the dark.
                for shades in [["light"], ["dark"]] if page_name in PLOTS else [["light", "dark"]]:
                    shoot(opened, url, page_name, shades, args)
    finally:
        if (args.runs / RUN).exists():
            (args.runs / RUN / "stop").touch()  # a run goes on without its app
        if server is not None:
            app_server.stop(server)


def shoot(opened, url: str, page_name: str, shades: list[str], args) -> None:
    page = browser.open_page(opened, url, dark=shades[0] == "dark")
    page.set_default_timeout(900_000)  # pictures on a busy machine
    DRIVE[page_name](page, args)
    for size_name, size in (("desktop", browser.DESKTOP), ("phone", browser.PHONE)):
        page.set_viewport_size(size)
        for shade in shades:
            # What gradio's own switch does; a reload would lose what was made.
            page.evaluate(f"document.body.classList.toggle('dark', {str(shade == 'dark').lower()})")
            page.evaluate("window.scrollTo(0, 0)")
            page.wait_for_timeout(1500)
            keep(page, args.output / f"{page_name}-{size_name}-{shade}.webp")
    if page.complaints:
        print("\n".join(page.complaints), file=sys.stderr)
    page.context.close()


def generate(page, args) -> None:
    browser.choose_adapter(page, args.adapters[0])
    page.wait_for_selector(".adapter-row")
    page.fill("#prompt textarea", "a 3d render of a {subject} on a dotted yellow background")
    page.click(".insert-trigger")
    page.click("#more .label-wrap")
    browser.set_number(page, "#steps", args.steps)
    page.click("#more .label-wrap")
    browser.set_number(page, "#count", 4)
    page.uncheck("#surprise input")
    page.click("#generate")
    page.locator("#status", has_text="done.").wait_for()
    page.wait_for_selector("#gallery img")


def compare(page, args) -> None:
    browser.select_tab(page, "Compare")
    for name in args.adapters[:2]:
        browser.choose_adapter(page, name)
    page.fill("#compare-prompts textarea", PROMPTS)
    browser.set_number(page, "#compare-steps", args.steps)
    page.click("#compare")
    page.locator("#compare-status", has_text="Done.").wait_for()
    page.wait_for_selector("#grid img")


def train(page, args) -> None:
    """A run on a sample subject, a few steps on its way; the second time the page finds it again."""
    browser.select_tab(page, "Train")
    page.locator("#subject input").click()
    page.get_by_role("option", name=SUBJECT, exact=True).click()
    page.locator("#findings", has_text="5 photos").wait_for()
    if not (args.runs / RUN).exists():
        page.click("#start-training")
    page.locator("#run-status", has_text=RUN).wait_for()
    if page.get_by_role("button", name="Resume", exact=True).is_visible():
        page.get_by_role("button", name="Resume", exact=True).click()
    page.locator("#run-status", has_text=f"{RUN} trains: step").wait_for(timeout=600_000)
    page.wait_for_selector("#loss canvas, #loss svg")
    page.wait_for_timeout(20_000)


def library(page, args) -> None:
    browser.select_tab(page, "Library")
    page.locator("#shelf button", has_text=args.adapters[0]).first.click()
    page.locator("#facts", has_text="trigger").wait_for()
    page.wait_for_timeout(3000)


DRIVE = {"generate": generate, "compare": compare, "train": train, "library": library}


def keep(page, path: Path) -> None:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.save(path, "WEBP", quality=72, method=6)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
