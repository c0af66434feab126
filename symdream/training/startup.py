"""How long a run takes to reach its first step, phase by phase."""

from __future__ import annotations

import time

from symdream.ui import say


class Startup:
    """`startup.done("base")` ends a phase; `startup.first_step()` tells them all, once.

    `seconds`: each phase, and `to_step_1`, from the end of the base's loading to the end of step 1.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.notes: dict[str, str] = {}
        self._mark = time.monotonic()

    def done(self, phase: str, note: str = "") -> None:
        now = time.monotonic()
        self.seconds[phase] = now - self._mark
        self.notes[phase] = note
        self._mark = now

    def first_step(self) -> None:
        """Called after every step; tells the phases after the first."""
        if "to_step_1" in self.seconds:
            return
        self.done("step 1")
        phases = [
            f"{phase} {seconds:.1f} s" + (f" ({note})" if (note := self.notes[phase]) else "")
            for phase, seconds in self.seconds.items()
        ]
        self.seconds["to_step_1"] = sum(seconds for phase, seconds in self.seconds.items() if phase != "base")
        say("  start: " + ", ".join(phases))
