"""Asking a run to stop: Ctrl-C, SIGTERM, a closed terminal, or a file named `stop` in the run folder."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator

from symdream.signals import others


class StopRequest:
    """While entered, SIGINT, SIGTERM and SIGHUP only set a flag, which the loop reads between two steps.

    A second Ctrl-C, a second or more after the first, ends the process at once (the last checkpoint remains);
    sooner it is the same one: the terminal sends it to all processes, and torchrun passes it on to its own.

    Python lets only the main thread listen to signals: a run in another is stopped by the file alone.
    """

    def __init__(self, stop_file: Path):
        self.stop_file = stop_file
        self.reason: str | None = None
        self._interrupted: float | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (signal.SIGINT, *others()):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._interrupted is not None and now - self._interrupted > 1:
            raise KeyboardInterrupt
        if number == signal.SIGINT and self._interrupted is None:
            self._interrupted = now
        self.reason = self.reason or signal.Signals(number).name

    def requested(self, accelerator: Accelerator) -> bool:
        """True once anybody asked, in all processes alike. A look at the file costs microseconds: every step asks.

        Only the main process looks, since only it is sure to see the run folder.
        """
        if self.reason is None and accelerator.is_main_process and self.stop_file.exists():
            self.reason = f"the file {self.stop_file}"
        asked = self.reason is not None
        if accelerator.num_processes > 1:
            votes = accelerator.reduce(torch.tensor(float(asked), device=accelerator.device))
            if votes > 0 and not asked:
                self.reason = "another process of this run"
            asked = bool(votes > 0)
        return asked
