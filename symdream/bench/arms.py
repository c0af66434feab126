"""The arms of a grid: each a method at a rank, at LoRA's rank or with LoRA's number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from symdream.bench.comparisons import EQUAL_PARAMETERS, EQUAL_RANK
from symdream.bench.grid import Grid
from symdream.diffusion.adapters import rank_problem
from symdream.diffusion.base import Base
from symdream.diffusion.conditioning import unused_layers
from symdream.errors import Problems
from symdream.tuners import METHODS, count_parameters, linear_shapes, target_modules

HALVED = ("singlora", "symlora")  # the methods with one matrix a layer where LoRA has two


@dataclass(frozen=True)
class Arm:
    """One line of the comparison's table. `parameters` counts what is trained."""

    id: str
    method: str
    rank: int
    label: str
    role: str
    parameters: int

    def describe(self) -> dict[str, Any]:
        return asdict(self)


def make_arms(grid: Grid, base: Base) -> list[Arm]:
    """The arms in the order of the grid's methods, those of equal parameters last.

    Raises: Problems if a rank is larger than a layer of this base.
    """
    shapes = adapted_shapes(grid, base)
    arms = []
    if grid.match != "parameters":
        arms += [_arm(method, rank, EQUAL_RANK, shapes) for rank in grid.ranks for method in grid.methods]
    else:
        arms += [_arm(m, rank, EQUAL_RANK, shapes) for rank in grid.ranks for m in grid.methods if m not in HALVED]
    if grid.match != "rank":
        limit = min(min(shape) for shape in shapes)
        for rank in grid.ranks:
            for method in (m for m in grid.methods if m in HALVED):
                arm = _arm(method, matched_rank(method, rank, shapes, limit), EQUAL_PARAMETERS, shapes)
                if arm.id not in {a.id for a in arms}:
                    arms.append(arm)
    _refuse_too_large(grid, base, [arm.rank for arm in arms])
    return arms


def matched_rank(method: str, rank: int, shapes: Sequence[tuple[int, int]], limit: int) -> int:
    """The rank, at most `limit`, at which `method` trains most nearly as many parameters as LoRA at `rank`.

    It is sought in steps of rank / 2 (of 1 where that is odd), so that SingLoRA and SymLoRA get the same one (16 for 8,
    on sprite and on SD 1.5), although SymLoRA's Λ adds r numbers a layer.
    """
    step = 1 if rank % 2 else rank // 2
    wanted = count_parameters("lora", shapes, rank)
    return min(range(step, limit + 1, step), key=lambda r: (abs(count_parameters(method, shapes, r) - wanted), r))


def adapted_shapes(grid: Grid, base: Base) -> list[tuple[int, int]]:
    """(in, out) of every layer that an adapter of this grid is put on."""
    shapes = []
    for component in base.chosen(grid.train.get("components", "both")):
        targets = target_modules(grid.train.get("targets", "qkvo"), component)
        shapes += linear_shapes(base.components()[component], targets, unused_layers(base, component))
    return shapes


def _arm(method: str, rank: int, role: str, shapes: Sequence[tuple[int, int]]) -> Arm:
    label = f"{METHODS[method].label} r{rank}"
    return Arm(
        f"{method.replace('+', 'plus')}-r{rank}", method, rank, label, role, count_parameters(method, shapes, rank)
    )


def _refuse_too_large(grid: Grid, base: Base, ranks: Sequence[int]) -> None:
    targets = grid.train.get("targets", "qkvo")
    problems = [
        problem
        for component in base.chosen(grid.train.get("components", "both"))
        for rank in sorted(set(ranks))
        if (problem := rank_problem(base.components()[component], component, targets, rank))
    ]
    if problems:
        raise Problems("the grid", problems)
