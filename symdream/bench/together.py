"""Cells of a grid that are trained in one loop (symdream.training.batched), since the base's weights are read once.

It pays where a step waits for kernels to be launched, on a GPU; on a CPU a step of small batches gains next to nothing
(benchmarks/batched.py), so cells are trained one by one there unless --together says otherwise.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from typing import Any

from symdream.bench.cells import Cell
from symdream.bench.runs import resolved_config, run_cell
from symdream.bench.workshop import Workshop
from symdream.training.batchable import what_differs
from symdream.training.batched import train_together
from symdream.training.run_folder import RunFolder
from symdream.tuners.batched import FAMILIES
from symdream.ui import only_in_the_log, say

ON_A_GPU = 8


def how_many(asked: int | None, device_type: str) -> int:
    """How many cells are trained in one loop at most."""
    return asked or (ON_A_GPU if device_type == "cuda" else 1)


def grouped(cells: Sequence[Cell], size: int) -> list[tuple[Cell, ...]]:
    """Groups of at most `size` cells of one family of methods and one rank, in the order of their first cells.

    The other settings that decide shapes are the grid's, hence the same in all.
    """
    groups: list[list[Cell]] = []
    filling: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        kind = (FAMILIES[cell.method], cell.rank)
        if kind not in filling or len(filling[kind]) == size:
            filling[kind] = []
            groups.append(filling[kind])
        filling[kind].append(cell)
    return [tuple(group) for group in groups]


def run_cells(workshop: Workshop, cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Train, draw and score each of `cells` (see `run_cell`); those that can be are trained in one loop first."""
    shared = _train_in_one_loop(workshop, cells)
    return [run_cell(workshop, cell, shared.get(cell.id, 0.0)) for cell in cells]


def _train_in_one_loop(workshop: Workshop, cells: Sequence[Cell]) -> dict[str, float]:
    """Train those that have not been begun in one loop, where their settings allow it; `run_cell` then finds them.

    What goes wrong is told, and costs time alone: `run_cell` trains what is not finished.
    Returns the seconds that fall to each cell that is.
    """
    fresh = [cell for cell in cells if not workshop.cell_folder(cell).exists()]
    if len(fresh) < 2:
        return {}
    began = time.monotonic()
    runs: list[RunFolder] = []
    try:
        configs = [resolved_config(workshop, cell) for cell in fresh]
        if problems := what_differs(configs):
            say(f"  {len(fresh)} cells are trained one by one: {problems[0]}")
            return {}
        for cell in fresh:
            runs.append(RunFolder.create(workshop.cell_folder(cell)))
        with only_in_the_log():
            finished = train_together(runs, configs, workshop.base, keep=fresh[0].points)
        for run, done in zip(runs, finished, strict=True):
            if not done:
                error = run.read_state().get("error") or "its state.json could not be written"
                say(f"  {run.path.name} failed in one loop with others; it is trained alone: {error}")
    except Exception as error:  # noqa: BLE001 - whatever goes wrong together may go well alone
        say(f"  training {len(fresh)} cells in one loop failed; they are trained one by one: {error}")
    finally:
        for run in runs:
            if run.path.exists() and run.read_state().get("status") != "finished":
                shutil.rmtree(run.path)
    seconds = (time.monotonic() - began) / len(fresh)
    return {run.path.name: seconds for run in runs if run.path.exists()}
