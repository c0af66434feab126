"""A task's argument for worker processes, light to import there."""

from __future__ import annotations

import signal
import time
from pathlib import Path


class Interrupting:
    """Interrupts the process which receives it, as the terminal's Ctrl-C does, and makes the file `begun` as soon as
    that process has begun to end: which from then on takes long, that a second signal may meet it in whatever it
    does."""

    def __init__(self, begun: Path):
        self.begun = begun

    def __reduce__(self):
        return _interrupt, (self.begun,)


def _interrupt(begun: Path) -> None:
    set_handler = signal.signal

    def set_slowly(number, handler):
        begun.touch()
        time.sleep(0.2)
        return set_handler(number, handler)

    signal.signal = set_slowly
    signal.raise_signal(signal.SIGINT)
