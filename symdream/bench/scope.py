"""What a grid compares on its base: known once base and encoders are loaded, and the same as long as a start works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from symdream.bench import tuning
from symdream.bench.arms import Arm, make_arms
from symdream.bench.cells import Cell, Settings, grid_cells, protocol_of
from symdream.bench.grid import Grid, compared_subjects, tuning_subjects
from symdream.bench.subjects import BenchSubject
from symdream.bench.workshop import Workshop


@dataclass(frozen=True)
class Scope:
    """`names` are compared on, `tuned_on` tuned on; `embedded`: the base is sprite."""

    grid: Grid
    subjects: Mapping[str, BenchSubject]
    names: list[str]
    tuned_on: list[str]
    arms: list[Arm]
    protocol: str
    embedded: bool

    @staticmethod
    def of(workshop: Workshop) -> Scope:
        """Raises: Problems if a rank is larger than a layer of the base; RequestError if an encoder cannot be had."""
        grid, subjects, base = workshop.grid, workshop.subjects, workshop.base
        return Scope(
            grid,
            subjects,
            names=compared_subjects(grid, subjects),
            tuned_on=tuning_subjects(grid, subjects) if grid.tune else [],
            arms=make_arms(grid, base),
            protocol=protocol_of(grid, base.hash, workshop.encoder_names()),
            embedded=workshop.embedded,
        )

    def settings_of_table(self) -> dict[str, Settings]:
        """By arm, of the table of methods."""
        return {arm.id: tuning.defaults(arm, embedded=self.embedded) for arm in self.arms}

    def cells(self, settings: Mapping[str, Settings]) -> list[Cell]:
        return grid_cells(self.grid, self.arms, self.names, self.subjects, settings, self.protocol)

    def trial_cells(self, trial: tuning.Trial, arm: Arm) -> list[Cell]:
        return tuning.trial_cells(
            trial, arm, self.grid, self.tuned_on, self.subjects, self.protocol, embedded=self.embedded
        )
