"""What ends a command from outside: Ctrl-C, SIGTERM, a closed terminal."""

from __future__ import annotations

import atexit
import os
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
def signals_like_ctrl_c(*, last: bool = False) -> Iterator[None]:
    """While entered, SIGTERM and SIGHUP raise KeyboardInterrupt as Ctrl-C does. It leaves as KeyboardInterrupt also
    where a library, interrupted while it reads a file, makes an error of its own of it. While it leaves by a stop,
    another signal changes nothing.

    last: the process ends with what is entered. Left by a stop, SIGINT is ignored, so that a second Ctrl-C, a moment
    after the first, does not break off what tells of it; `end_stopped` takes over.
    Python lets only the main thread listen to signals: in another nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[float] = []
    stopped = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        if stopped:
            return
        asked.append(time.monotonic())
        raise KeyboardInterrupt

    numbers = [n for n in (signal.SIGINT, *others()) if signal.getsignal(n) != signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        stopped = True
        raise
    except Exception as error:
        stopped = bool(asked) and time.monotonic() - asked[-1] < SOON
        if stopped:
            raise KeyboardInterrupt from error
        raise
    finally:
        if last and stopped and signal.SIGINT in previous:
            previous[signal.SIGINT] = signal.SIG_IGN
        for number, handler in previous.items():
            signal.signal(number, handler)


def end_stopped(code: int) -> None:
    """For a process that is about to end with `code` as it was stopped: another Ctrl-C changes neither that nor what
    was told, where Python, as it ends, would print traces or die by the signal."""
    # Python first waits for threads, such as a download's. Nobody shall have to wait for those.
    signal.signal(signal.SIGINT, lambda *_: os._exit(code))
    # Last it takes its modules apart, and handlers of ours are gone by then. What is ignored stays so.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
