"""The cells of a grid: what each trains and draws, and the file that says it is done.

    cells/ID/        a run folder, as symdream train makes it
        pictures/step-N/PROMPT-SEED.png, pictures/class/PROMPT-SEED.png
        cell.json    {format, cell (its entry of results.json), rows (its lines of scores.csv)}; written last

`key` is a hash over all that decides the scores, but what lies in the subject's folder: a cell.json with another key is
of another grid and done again. Photos, captions, masks and ideal pictures are in results.json before any cell is
trained (grid.photos, grid.beside), and a folder that was begun with others is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from symdream.bench.grid import Grid, prompts_of
from symdream.bench.subjects import BenchSubject
from symdream.files import read_json, write_json

if TYPE_CHECKING:
    from symdream.bench.arms import Arm  # which needs torch: who only reads results does not

CELL_FILE = "cell.json"
FORMAT = 1


@dataclass(frozen=True)
class Settings:
    """What an arm is trained with; None: the method's default."""

    lr: float
    text_encoder_lr: float
    alpha: float


@dataclass(frozen=True)
class Cell:
    """One training run and its pictures. `images` at step N: prompts × image_seeds."""

    id: str
    arm: str
    method: str
    rank: int
    subject: str
    seed: int
    settings: Settings
    prompts: tuple[str, ...]
    image_seeds: tuple[int, ...]
    points: tuple[int, ...]
    in_full: tuple[bool, ...]  # point by point: all image seeds, or the first alone
    drift_pictures: int
    protocol: str  # a hash over what all cells share
    spectrum: bool  # whether the singular values of its update are kept

    @property
    def key(self) -> str:
        return digest(asdict(self))

    def is_told_by(self, entry: Mapping[str, Any]) -> bool:
        """Whether this entry of results.json is of this cell: whose singular values were kept makes no other scores."""
        return entry.get("key") in (self.key, replace(self, spectrum=not self.spectrum).key)

    def seeds_at(self, point: int) -> tuple[int, ...]:
        return self.image_seeds if self.in_full[self.points.index(point)] else self.image_seeds[:1]

    def images(self) -> int:
        """How many pictures are drawn in this cell."""
        return sum(len(self.prompts) * len(self.seeds_at(p)) for p in self.points) + self.drift_pictures


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def protocol_of(grid: Grid, base_hash: str, encoders: Sequence[str]) -> str:
    """A hash over what every cell of a grid shares: two cells with the same one can be compared."""
    shared = ("steps", "batch_size", "sampler", "sampling_steps", "guidance", "train")
    return digest([grid.model_dump(mode="json", include=set(shared)), base_hash, list(encoders)])


def grid_cells(
    grid: Grid,
    arms: Sequence[Arm],
    names: Sequence[str],
    subjects: Mapping[str, BenchSubject],
    settings: Mapping[str, Settings],
    protocol: str,
) -> list[Cell]:
    """Every cell, in the order of work: whole subjects first, so that a grid that is cut short compares something."""
    points = tuple(grid.scored_steps)
    in_full = tuple(not grid.only_last_in_full or point == grid.steps for point in points)
    return [
        Cell(
            id=f"{arm.id}-{name}-s{seed}",
            arm=arm.id,
            method=arm.method,
            rank=arm.rank,
            subject=name,
            seed=seed,
            settings=settings[arm.id],
            prompts=tuple(prompts_of(grid, subjects[name])),
            image_seeds=tuple(grid.image_seeds),
            points=points,
            in_full=in_full,
            drift_pictures=grid.drift_pictures,
            protocol=protocol,
            spectrum=seed == grid.training_seeds[0],
        )
        for seed in grid.training_seeds
        for name in names
        for arm in arms
    ]


def of_shard(cells: Sequence[Cell], shard: tuple[int, int]) -> list[Cell]:
    """Every n-th subject and seed, with all of their arms: so that no machine is one method's alone, and runs that are
    compared with each other are of one machine."""
    first, step = shard
    blocks = list(dict.fromkeys((cell.subject, cell.seed) for cell in cells))[first::step]
    return [cell for cell in cells if (cell.subject, cell.seed) in blocks]


def read_done(folder: Path) -> dict[str, Any] | None:
    """The content of FOLDER/cell.json, None if there is none or it is damaged or of another format."""
    content = read_json(folder / CELL_FILE)
    return content if content.get("format") == FORMAT and "cell" in content else None


def write_done(folder: Path, entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CELL_FILE, {"format": FORMAT, "cell": dict(entry), "rows": list(rows)})


def failed_entry(cell: Cell, status: str, error: str | None) -> dict[str, Any]:
    """The entry of a cell without scores: "failed" with its error, or "missing"."""
    return {**identity(cell), "status": status, "error": error, "parameters": None, "seconds": None,
            "seconds_per_step": None, "points": [], "spectrum": []}  # fmt: skip


def identity(cell: Cell) -> dict[str, Any]:
    return {
        "id": cell.id, "key": cell.key, "arm": cell.arm, "method": cell.method, "rank": cell.rank,
        "subject": cell.subject, "seed": cell.seed, "settings": asdict(cell.settings),
    }  # fmt: skip
