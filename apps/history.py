"""What was made, kept a folder for each user or browser; every file is a PNG that carries its settings."""

from __future__ import annotations

import re
import secrets
import shutil
import time
from pathlib import Path

import gradio as gr
from gradio.processing_utils import save_file_to_cache
from PIL import Image

from symdream.diffusion.png import save_png
from symdream.errors import RequestError
from symdream.files import write_atomically
from symdream_apps.context import Context
from symdream_apps.generation import Made

SHOWN = 48
THUMBNAIL = 256  # pixels


def new_owner() -> str:
    """A name that nobody can guess, for a browser to keep."""
    return secrets.token_hex(16)


def owner_of(browser: str | None, request: gr.Request | None) -> str:
    """Whose pictures these are: the user's who logged in, else the browser's; a new one's while it has no name yet.

    Raises: RequestError if the browser sends something else than the name it was given.
    """
    user = getattr(request, "username", None)
    if user:
        return "user-" + "".join(c if c.isalnum() else f"_{ord(c):x}_" for c in user)
    if not browser:
        return new_owner()  # the page asked before it was all there
    if not re.fullmatch(r"[0-9a-f]{32}", browser):
        raise RequestError("This page lost its place in the app.", fix="reload it")
    return browser


class History:
    """Pictures by owner under `context.images`."""

    def __init__(self, context: Context):
        self.context = context

    def save(self, owner: str, pictures: list[Made], first: int = 0) -> list[Path]:
        """Write the pictures first, first + 1, … of what was asked for, newest last.

        Raises: WorkError on a full disk; then a picture is there whole or not.
        """
        folder, stamp = self.context.images / owner, time.strftime("%Y%m%d-%H%M%S")
        paths = []
        for number, made in enumerate(pictures, first):
            path = folder / f"{stamp}-{number:02d}-{secrets.token_hex(2)}-seed-{made.settings['seed']}.png"
            write_atomically(path, lambda temporary, made=made: save_png(made.image, temporary, made.settings))
            paths.append(path)
        return paths

    def newest(self, owner: str, count: int = SHOWN) -> list[Path]:
        return sorted((self.context.images / owner).glob("[!.]*.png"), reverse=True)[:count]

    def thumbnail(self, path: Path) -> Path:
        """A small picture to show in `path`'s place; itself where it is small already."""
        with Image.open(path) as image:
            if max(image.size) <= THUMBNAIL:
                return path
            small = path.with_name(f".{path.stem}.webp")
            if not small.exists():
                image.thumbnail((THUMBNAIL, THUMBNAIL))
                write_atomically(small, lambda temporary: image.save(temporary, format="WEBP", quality=80))
            return small

    def clear(self, owner: str) -> int:
        """Move everything of `owner` to the trash; how many pictures that were."""
        folder = self.context.images / owner
        count = len(self.newest(owner, 10**9))
        if folder.is_dir():
            name = f"pictures-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
            shutil.move(folder, self.context.trash / name)
        return count


def served(context: Context, path: Path) -> str:
    """A copy of one of the app's own files where gradio serves from; nothing else is ever served.

    gradio removes it in time once a component has shown it, so serve nothing in advance. A component that is also sent
    updates (gr.skip() is one) must get files by an update too: a plain value goes to the session's copy of it, whose
    files gradio never removes.
    Raises: RequestError if the file is gone.
    """
    try:
        return save_file_to_cache(path, cache_dir=str(context.uploads))
    except FileNotFoundError:
        raise RequestError(f"{Path(path).name} is not there any more.", fix="make it again") from None
