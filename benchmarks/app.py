"""How quickly the app is there, how quickly it draws, and whether it grows.

    python benchmarks/app.py                       # all of it, some minutes on two calm CPU cores
    python benchmarks/app.py --pictures 0          # without the 200 pictures that memory is watched over

Starts `symdream app` on an empty runs folder. port: seconds from the command until it answers. page: from then until
the first page can be used in chromium (none where there is none). first: a 25-step picture on sprite, models loaded on
the way. picture: the next one. memory: resident bytes of the app after 20 and after all two-step pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers import app_server, browser  # noqa: E402

PROMPT = "a 3d render of a cat on a red background"
SETTLED = 20  # pictures until caches are full


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=200, help="two-step pictures that memory is watched over")
    args = parser.parse_args()
    from gradio_client import Client

    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        server = app_server.start(Path(folder) / "runs")
        figures: dict[str, float | None] = {"port_seconds": time.perf_counter() - start}
        try:
            figures["page_seconds"] = first_page(server.url)
            client = Client(server.url, verbose=False, download_files=str(Path(folder) / "fetched"))
            for name in ("first_picture_seconds", "picture_seconds"):
                start = time.perf_counter()
                client.predict(prompt=PROMPT, steps=25, api_name="/generate")
                figures[name] = time.perf_counter() - start
            process, settled = psutil.Process(server.process.pid), None
            for number in range(args.pictures):
                client.predict(prompt=PROMPT, steps=2, seed=number, api_name="/generate")
                if number + 1 == min(SETTLED, args.pictures):
                    settled = process.memory_info().rss
            if settled is not None:
                after = process.memory_info().rss
                figures |= {"memory_settled": settled, "memory_after": after, "growth": after / settled - 1}
        finally:
            app_server.stop(server)
    figures["load"] = psutil.getloadavg()[0]
    print(json.dumps(figures, indent=1))


def first_page(url: str) -> float | None:
    """Seconds from asking for the page until its Generate button is there, in a browser that is running already."""
    if browser.CHROMIUM is None:
        print(browser.WHY_NOT, file=sys.stderr)
        return None
    with browser.opened() as opened:
        start = time.perf_counter()
        browser.open_page(opened, url)
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
