"""Uploads that broke off: gradio writes each to a tmp file, and leaves it behind when the browser goes amid of it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

from starlette.requests import ClientDisconnect

IDLE = 60.0  # seconds without a byte, by which an app that begins or ends takes an upload for broken off
LONG_IDLE = 3600.0  # the same while it may still be going on


def sweep(uploads: Path, idle: float) -> None:
    """Remove what is left in the folder `uploads` of uploads that got nothing for `idle` seconds.

    Another app on the same folder may be receiving some.
    """
    for file in uploads.glob("tmp*"):
        try:
            if file.is_file() and time.time() - file.stat().st_mtime > idle:
                file.unlink()
        except OSError:  # finished meanwhile, or not ours to remove
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
