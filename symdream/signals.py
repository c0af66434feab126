"""What ends a command from outside: Ctrl-C, SIGTERM, a closed terminal."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from symdream.errors import Stopped

SOON = 10  # seconds from a signal in which an error is taken for what a library made of it


def others() -> list[signal.Signals]:
    """What ends a command beside Ctrl-C. SIGHUP says that the terminal was closed or lost; nohup ignores it, so do
    we."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGTERM] if ignored else [signal.SIGTERM, signal.SIGHUP]


@contextmanager
def signals_like_ctrl_c() -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does. It leaves as KeyboardInterrupt also
    where a library, interrupted while it reads a file, makes an error of its own of it.

    Python lets only the main thread listen to signals: in another nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[float] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        asked.append(time.monotonic())
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGINT, *others()) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except Exception as error:
        if asked and time.monotonic() - asked[-1] < SOON and not isinstance(error, Stopped):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
