"""Errors as the browser shows them: what, where, what to do. Stack traces go to the log only."""

from __future__ import annotations

import errno
import html
import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import gradio as gr

from symdream.errors import SymdreamError
from symdream_apps.context import Context
from symdream_apps.status import status
from symdream_apps.wording import message, without_place

UNEXPECTED = "Something went wrong inside the app; its log has the details. The app goes on: try again."


def plain(error: BaseException) -> gr.Error:
    """What the page shows for `error`; never a trace, and a path only where the message itself names one."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, SymdreamError):
        # gradio shows a message as HTML, and ours quotes what users and files say.
        title, text = "That did not work", html.escape(message(str(error)), quote=False)
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        title, text = "Disk full", "The disk is full; nothing could be saved.\n  fix:   free some space, then try again"
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        title, text = "Out of memory", "There is not enough memory.\n  fix:   make fewer or smaller pictures at once"
    else:
        title, text = "Unexpected error", UNEXPECTED
    return gr.Error(text, title=title, duration=None, print_exception=False)


def inline(context: Context, error: Exception) -> str:
    """The message for `error` as a page's status line; logs it as `told` does."""
    return status(html.unescape(str(_turn(context, error).message)), wrong=True)


def warn(context: Context, error: Exception) -> None:
    """Show the message for `error` beside a page that goes on; logs it as `told` does."""
    shown = _turn(context, error)
    gr.Warning(shown.message, duration=None, title=shown.title)


def _turn(context: Context, error: Exception) -> gr.Error:
    shown = plain(error)
    shown.message = without_place(str(shown.message), context.runs)
    if isinstance(error, SymdreamError | gr.Error):
        context.log.info("refused: %s", " ".join(str(error).split()))
    else:
        context.log.error("failed", exc_info=error)
    return shown


def told(context: Context) -> Callable[[Callable], Callable]:
    """Decorates an event's function (plain or generator): whatever it raises reaches the page as `plain` says.

    Mistakes of the request are logged as one line, everything else with its trace.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        if inspect.isgeneratorfunction(function):

            @wraps(function)
            def wrapped(*args, **kwargs):
                try:
                    yield from function(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - the last line of defence before the browser
                    raise _turn(context, error) from None
        else:

            @wraps(function)
            def wrapped(*args, **kwargs):
                try:
                    return function(*args, **kwargs)
                except Exception as error:  # noqa: BLE001 - the last line of defence before the browser
                    raise _turn(context, error) from None

        return wrapped

    return decorate
