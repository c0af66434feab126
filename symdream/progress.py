"""Progress for people: a bar with loss and time left on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from contextlib import suppress

from symdream.ui import is_quiet, say


def duration(seconds: float) -> str:
    """As people say it: "75 s", "12 min", "2.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Progress:
    """`with Progress("training", total) as p: p.update(done, "loss 0.1")`; writes to stderr."""

    def __init__(self, title: str, total: int, *, start: int = 0, quiet: bool = False):
        self.title, self.total, self.start, self.quiet = title, total, start, quiet
        self._bar = None
        self._began = time.monotonic()
        self._said = start

    def __enter__(self) -> Progress:
        if not self.quiet and not is_quiet() and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bar = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=self.total, completed=self.start, note="")
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            with suppress(OSError):  # of a terminal that is gone
                self._bar.stop()

    def update(self, done: int, note: str = "") -> None:
        if self.quiet:
            return
        if self._bar:
            self._bar.update(self._task, completed=done, total=self.total, note=note)
        elif done == self.total or (done - self._said) * 5 >= self.total - self.start:
            self._said = done
            worked = done - self.start
            left = (time.monotonic() - self._began) / max(1, worked) * (self.total - done)
            say(f"{self.title} {done}/{self.total}  {note}" + (f"  about {left:.0f} s left" if left >= 1 else ""))

    def on_step(self, done: int, total: int) -> None:
        """`sample`'s on_step, which is the first to know how many steps there will be."""
        self.total = total
        self.update(done)
