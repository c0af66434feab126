"""Errors as the browser shows them: what, where, what to do. Stack traces go to the log only."""

from __future__ import annotations

import errno
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from symdream.errors import SymdreamError
from symdream_apps.context import Context

UNEXPECTED = "Something went wrong inside the app; its log has the details. The app goes on: try again."


def plain(error: BaseException) -> gr.Error:
    """What the page shows for `error`; never a trace, and a path only where the message itself names one."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, SymdreamError):
        return gr.Error(str(error), title="That did not work", duration=None, print_exception=False)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return gr.Error(
            "The disk is full, so nothing could be saved.\n  fix:   free some space, then try again",
            title="Disk full", duration=None, print_exception=False,
        )  # fmt: skip
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return gr.Error(
            "There is not enough memory for this.\n  fix:   make fewer or smaller pictures at once",
            title="Out of memory", duration=None, print_exception=False,
        )  # fmt: skip
    return gr.Error(UNEXPECTED, title="Unexpected error", duration=None, print_exception=False)


def told(context: Context) -> Callable[[Callable], Callable]:
    """Decorates an event's function (plain or generator): whatever it raises reaches the page as `plain` says.

    Mistakes of the request are logged as one line, everything else with its trace.
    """

    def turn(error: Exception) -> gr.Error:
        shown = plain(error)
        if isinstance(error, SymdreamError | gr.Error):
            context.log.info("refused: %s", " ".join(str(error).split()))
        else:
            context.log.error("failed", exc_info=error)
        return shown

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def wrapped(*args, **kwargs):
                try:
                    yield from function(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - the last line of defence before the browser
                    raise turn(error) from None
        else:

            @wraps(function)
            def wrapped(*args, **kwargs):
                try:
                    return function(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - the last line of defence before the browser
                    raise turn(error) from None

        return wrapped

    return decorate
