"""What is said while a comparison runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from symdream.progress import duration
from symdream.ui import say


def tell_instrument(found: Mapping[str, Any]) -> None:
    for name in ("dino", "clip_i"):
        if found[name]["auc"] is None:
            say(f"  {name}: its power to tell subjects apart could not be tested: {found[name]['why']}.")
        else:
            verdict = "" if found[name]["enough"] else ": it measures class and style more than identity"
            say(f"  {name} tells a subject from others with AUC {found[name]['auc']:.3f}{verdict}")


class Progress:
    """Tells each cell as it ends, and how long the others may take."""

    def __init__(self, title: str, total: int, before: int):
        """before: how many of `total` are finished already."""
        self.title, self.total, self.before, self.here = title, total, before, 0
        if before:
            say(f"{title}: {before} of {total} are finished already.")
        self.began = time.monotonic()

    def tell(self, name: str, entry: Mapping[str, Any]) -> None:
        self.here += 1
        done = self.before + self.here
        remaining = (time.monotonic() - self.began) / self.here * (self.total - done)
        say(f"{self.title} {done}/{self.total}  {_told(name, entry)}  {duration(remaining)} left")


def _told(name: str, entry: Mapping[str, Any]) -> str:
    if entry["status"] != "finished":
        return f"{name} FAILED: {entry['error']}"
    scores = entry["points"][-1]["scores"]
    return f"{name}  DINO {scores['dino']:.3f}  CLIP-T {scores['clip_t']:.3f}  {entry['seconds']:.0f} s"
