"""Which cells of a grid are trained in one loop (symdream.training.batched), since the base's weights are read once.

It pays where a step waits for kernels to be launched, on a GPU; on a CPU a step of small batches gains next to nothing
(benchmarks/batched.py), so cells are trained one by one there unless --together says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from symdream.bench.cells import Cell
from symdream.tuners.batched import FAMILIES

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
