"""Uploads that broke off: gradio writes each to a tmp file, and leaves it behind when the browser goes amid of it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect

IDLE = 3600.0  # seconds without a byte, after which nothing in the folder is still being sent


def sweep(uploads: Path) -> None:
    """Remove what broken-off uploads left in the folder `uploads`, unless one of its files got a byte within IDLE.

    Any of them: the first file of a form waits, complete, for the others, and nothing says which belong together. Nor
    whether another app receives some on the same folder.
    """
    changed = {}
    for file in uploads.glob("tmp*"):
        try:
            if file.is_file():
                changed[file] = file.stat().st_mtime
        except OSError:  # finished meanwhile
            continue
    if time.time() - max(changed.values(), default=0) <= IDLE:
        return
    for file in changed:
        try:
            file.unlink()
        except OSError:  # not ours to remove
            continue


class OneLine:
    """ASGI middleware: a browser that goes amid of sending is one line of the log, not a trace."""

    def __init__(self, app: Any, log: logging.Logger):
        self.app, self.log = app, log

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await self.app(scope, receive, send)
        except ClientDisconnect:
            self.log.info("broken off by the browser: %s", scope["path"])
