"""Long work and its page: what it tells on the way, and how it is stopped."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from symdream.errors import Stopped
from symdream_apps.studio import Studio

PREVIEW_SHARE = 0.2  # of the time may go into looking at unfinished pictures
PREVIEW_EVERY = 0.4  # seconds at least between two looks


@dataclass(frozen=True)
class Update:
    """One thing that the work tells its page: `text`, a share from 0 to 1, unfinished pictures by place."""

    text: str = ""
    share: float | None = None
    pictures: dict[int, Any] | None = None


@dataclass(eq=False)
class Line:
    """The wire between the work on the studio's thread and the page that waits for it."""

    stop: threading.Event = field(default_factory=threading.Event)
    events: queue.SimpleQueue = field(default_factory=queue.SimpleQueue)
    started: float = field(default_factory=time.monotonic)
    _looked: float = 0.0
    _look_seconds: float = 0.0

    def say(self, text: str) -> None:
        self.events.put(Update(text))

    def on_step(self, done: int, total: int) -> None:
        """`sample`'s on_step: tells the step and the time left."""
        if done == 1:
            self.started = time.monotonic()  # the first step is also the one that warms up; count from its end
        left = (time.monotonic() - self.started) / (done - 1) * (total - done) if done > 1 else None
        text = f"Step {done} of {total}" + (f" · {left:.0f} s left" if left is not None else "")
        self.events.put(Update(text, done / total))

    def watch(self, preview: Any) -> None:
        """`sample`'s watch: shows the unfinished pictures, as often as its share of the time allows."""
        now = time.monotonic()
        if now - self._looked < max(PREVIEW_EVERY, self._look_seconds * (1 / PREVIEW_SHARE - 1)):
            return
        pictures = preview.pictures()
        self._looked = time.monotonic()
        self._look_seconds = self._looked - now
        self.events.put(Update(pictures={preview.first + i: picture for i, picture in enumerate(pictures)}))


class Desk:
    """Who is working for whom: so that "stop" ends one's own work and nobody else's."""

    def __init__(self, studio: Studio):
        self.studio = studio
        self._lines: list[tuple[str, Line]] = []

    def run(self, who: str, work: Callable[[Line], Any]) -> Generator[Update, None, Any]:
        """Do `work(line)` on the studio's worker; yields what it tells, and returns (`yield from`) its result.

        Raises: what the work raises; Stopped if it was stopped before it began.
        """
        line = Line()

        def begin() -> Any:
            if line.stop.is_set():
                raise Stopped("Stopped before it began.")
            return work(line)

        entry = (who, line)
        self._lines.append(entry)
        future = self.studio.submit(begin)
        future.add_done_callback(lambda _: line.events.put(None))
        try:
            while (told := line.events.get()) is not None:
                yield told
            return future.result()
        finally:
            line.stop.set()  # the page is gone, or the work is done
            self._lines.remove(entry)

    def stop(self, who: str) -> bool:
        """Ask all work of `who` to end; whether there was any."""
        lines = [line for owner, line in list(self._lines) if owner == who]
        for line in lines:
            line.stop.set()
        return bool(lines)

    def close(self) -> None:
        """Ask all work to end, and let nothing begin any more: the process cannot end before its work."""
        self.studio.close()
        for _, line in list(self._lines):
            line.stop.set()
