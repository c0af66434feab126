"""The report's pictures, small and inside the page: what the methods draw from the same noise, and best and worst.

They are read from the comparison's folder. One that holds its two result files alone has none, and the report says so.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.bench.grid import TRIGGER
from symdream.bench.subjects import BenchSubject
from symdream.data.captions import fill
from symdream.data.images import read_image
from symdream.errors import RequestError

SIDE = 144  # pixels; shown at 72 to 128
MOST_PROMPTS = 6
BUDGET = 5_500_000  # bytes of pictures in a page of at most 10 MB


class Album:
    """Pictures of a comparison as data addresses, each file once, until `BUDGET` is spent."""

    def __init__(self, content: Mapping[str, Any], folder: Path):
        self.content, self.folder, self.spent = content, Path(folder), 0
        self.grid = content["grid"]
        self.labels = {arm["id"]: arm["label"] for arm in self.grid["arms"]}
        self.subjects = _subjects(content)
        self._known: dict[Path, str | None] = {}

    @property
    def full(self) -> bool:
        return self.spent >= BUDGET

    def picture(self, path: Path | None) -> str | None:
        """The picture as a small JPEG in a data address; None if there is none."""
        if path is None or not path.is_file():
            return None
        if path not in self._known:
            stream = io.BytesIO()
            small = read_image(path)
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            small.save(stream, "JPEG", quality=82, optimize=True)
            self._known[path] = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
            self.spent += len(self._known[path])
        return self._known[path]

    def grids(self) -> tuple[list[dict[str, Any]], int]:
        """One table of pictures a subject, and how many subjects with pictures were left out for the page's size."""
        tables, left_out = [], 0
        for name in self.grid["subjects"]:
            if self.full:
                left_out += any(c["subject"] == name and c["status"] == "finished" for c in self.content["cells"])
            elif table := self.grid_of(name):
                tables.append(table)
        return tables, left_out

    def grid_of(self, name: str) -> dict[str, Any] | None:
        """Rows: photos, base, arms, the true subject; columns: prompts. First training seed, first image seed."""
        prompts = self.grid["prompts"].get(name, [])[:MOST_PROMPTS]
        seed = self.grid["image_seeds"][0]
        rows = []
        for arm in self.grid["arms"]:
            cell = next((c for c in self.content["cells"] if self._is(c, arm["id"], name)), None)
            if cell:
                rows.append({"label": arm["label"], "pictures": self.of_cell(cell, len(prompts), seed)})
        if not any(picture for row in rows for picture in row["pictures"]):
            return None
        base = [
            self.picture(self.folder / "references" / name / "base" / f"{i:02d}-{seed}.png")
            for i in range(len(prompts))
        ]
        rows = [{"label": "base alone", "pictures": base}, *rows]
        subject = self.subjects.get(name)
        ideals = [self.picture(subject.ideals.get(prompt)) if subject else None for prompt in prompts]
        if any(ideals):
            rows.append({"label": "the true subject", "pictures": ideals})
        return {"subject": name, "prompts": self.as_drawn(prompts, name), "photos": self.photos(name), "rows": rows}

    def as_drawn(self, prompts: Sequence[str], name: str) -> list[str]:
        """With trigger and class for {subject}, where the subject is at hand."""
        subject = self.subjects.get(name)
        if subject is None:
            return list(prompts)
        return [fill(prompt, trigger=TRIGGER, class_noun=subject.class_noun) for prompt in prompts]

    def photos(self, name: str) -> list[str]:
        """Up to five photos that were learned from, where they are at hand."""
        subject = self.subjects.get(name)
        if subject is None or not subject.folder.is_dir():
            return []
        from symdream.data.images import find_images

        return [p for p in (self.picture(path) for path in find_images(subject.folder)[:5]) if p]

    def extremes(self) -> list[dict[str, Any]]:
        """The best and the worst finished cell of every arm by DINO after the last step, with their pictures."""
        found = []
        seed = self.grid["image_seeds"][0]
        for arm in self.grid["arms"]:
            cells = [c for c in self.content["cells"] if c["arm"] == arm["id"] and c["status"] == "finished"]
            cells.sort(key=lambda cell: cell["points"][-1]["scores"]["dino"])
            for which, cell in (("best", cells[-1]), ("worst", cells[0])) if cells else ():
                prompts = self.grid["prompts"].get(cell["subject"], [])[:MOST_PROMPTS]
                drawn = self.as_drawn(prompts, cell["subject"])
                found.append({
                    "label": arm["label"], "which": which, "subject": cell["subject"], "seed": cell["seed"],
                    "scores": cell["points"][-1]["scores"], "photo": next(iter(self.photos(cell["subject"])), None),
                    "pictures": list(zip(self.of_cell(cell, len(prompts), seed), drawn, strict=True)),
                })  # fmt: skip
        return found

    def of_cell(self, cell: Mapping[str, Any], count: int, seed: int) -> list[str | None]:
        """The pictures of the last step, prompt by prompt."""
        place = self.folder / "cells" / cell["id"] / "pictures" / f"step-{cell['points'][-1]['step']}"
        return [self.picture(place / f"{i:02d}-{seed}.png") for i in range(count)]

    def _is(self, cell: Mapping[str, Any], arm: str, name: str) -> bool:
        first = self.grid["training_seeds"][0]
        return (cell["arm"], cell["subject"], cell["seed"], cell["status"]) == (arm, name, first, "finished")


def _subjects(content: Mapping[str, Any]) -> dict[str, BenchSubject]:
    """The subjects' folders, none where this machine does not have them: photos and ideals are then not shown."""
    from symdream.bench.subjects import read_subjects

    data = content["grid"]["config"].get("data")
    try:
        return read_subjects(Path(data) if data else None, embedded=False)  # of the prompts only the report's are used
    except (RequestError, OSError):
        return {}
