"""Runs a grid: instrument, references, tuning, cells; what is known is written after each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from symdream.bench.cells import Cell, failed_entry, of_shard, read_done
from symdream.bench.earlier import Earlier
from symdream.bench.grid import GRID_FILE, Grid, to_toml
from symdream.bench.instrument import test_instrument
from symdream.bench.lock import locked
from symdream.bench.progress import Progress, tell_instrument
from symdream.bench.references import take_references
from symdream.bench.results import write_results, write_rows
from symdream.bench.scope import Scope
from symdream.bench.search import search
from symdream.bench.settings import Chosen
from symdream.bench.together import grouped, how_many, run_cells
from symdream.bench.told import Known, content_and_rows, grid_told, notes_on_photos, notes_on_settings
from symdream.bench.workers import Done, Task, crew
from symdream.bench.workshop import Workshop
from symdream.errors import RequestError, Stopped, SymdreamError
from symdream.files import write_text
from symdream.signals import signals_like_ctrl_c
from symdream.ui import say


class Comparison:
    """One grid in one folder."""

    def __init__(
        self,
        grid: Grid,
        folder: Path,
        *,
        shard: tuple[int, int] = (0, 1),
        processes: int = 1,
        together: int | None = None,
    ):
        """together: how many cells are trained in one loop at most (None: symdream.bench.together decides)."""
        self.grid, self.folder, self.shard = grid, Path(folder), shard
        self.processes, self.together = processes, together
        self.workshop = Workshop(grid, self.folder)
        self.earlier: Earlier  # what is here once this process has the folder's lock
        self.known = Known()
        self.worked = 0.0  # seconds inside tasks
        self.scope: Scope  # known once base and encoders are loaded
        self._do: Callable[[Sequence[Task]], Iterator[Done]]  # while the workers are there

    def run(self, given: Chosen | None = None, *, tuning_only: bool = False) -> dict[str, Any]:
        """Do what is not done yet; returns results.json. `given`: settings tuned before; `tuning_only`: then stop.

        Raises: RequestError if the folder holds another grid, is in use, or an encoder cannot be had; Stopped.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.folder) as lock, signals_like_ctrl_c():
                self.earlier = Earlier.read(self.folder)
                return self._run(given, tuning_only, lock)
        except (Stopped, KeyboardInterrupt):
            raise Stopped(
                f"Stopped; what is finished in {self.folder} stays finished.",
                fix="go on with the same command",
            ) from None

    def _run(self, given: Chosen | None, tuning_only: bool, lock: int) -> dict[str, Any]:
        began = time.monotonic()
        workshop = self.workshop
        say(f"Comparing in {self.folder}: loading {self.grid.base} and the encoders.")
        self.scope = scope = Scope.of(workshop)
        self.earlier.refuse_another_grid(grid_told(scope, workshop, self.known.chosen))
        if known_settings := given is not None or not self.grid.tune:
            self._choose(Chosen(scope.settings_of_table()) if given is None else given)
            self._plan_cells()
        grid_before = _read(self.folder / GRID_FILE)
        write_text(self.folder / GRID_FILE, to_toml(self.grid))
        self.known.instrument = test_instrument(workshop)
        tell_instrument(self.known.instrument)
        _tell_notes(notes_on_photos(workshop, [*scope.names, *scope.tuned_on]))
        with crew(self.processes, workshop, lock) as self._do:
            self.known.references = take_references(scope.names, scope.tuned_on, self._results_of)
            if not known_settings:
                self._choose(self._tune())
            if not tuning_only:
                if not known_settings:
                    try:
                        self._plan_cells()
                    except RequestError:
                        if grid_before is not None:  # what was here is as it was
                            write_text(self.folder / GRID_FILE, grid_before)
                        raise
                self._take_cells()
            result = self._write()
        seconds = time.monotonic() - began
        overhead = 1 - self.worked / self.processes / seconds
        say(f"{seconds / 60:.1f} minutes; {overhead:.1%} of them passed outside of cells and references.")
        return result

    # What each phase does.

    def _choose(self, chosen: Chosen) -> None:
        """Train every arm with these settings. Raises: RequestError if an arm has none."""
        if lacking := [arm.label for arm in self.scope.arms if arm.id not in chosen.settings]:
            raise RequestError(f"The given settings have none for {', '.join(lacking)}.", fix="tune these arms too")
        self.known.chosen = chosen
        _tell_notes(notes_on_settings(chosen, self.scope, self.workshop))

    def _tune(self) -> Chosen:
        """Tune every arm, or take over what an earlier start found."""
        if taken := self.earlier.tuned(grid_told(self.scope, self.workshop, self.known.chosen)):
            return taken
        self._write()  # so that what the trials learn from is known before any is trained

        def work(cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
            found: dict[str, dict[str, Any]] = {}
            self._work(cells, "tuning", found)
            return found

        def keep(trials: list[dict[str, Any]]) -> None:
            self.known.chosen = Chosen(trials=trials)
            self._write()

        return search(self.scope, self.known.references, work, keep)

    def _plan_cells(self) -> None:
        """Raises: RequestError if finished cells would be lost."""
        self.known.cells = self.scope.cells(self.known.chosen.settings)
        self.known.found = self.earlier.done(self.known.cells, tune=self.grid.tune)

    def _take_cells(self) -> None:
        self._write()  # so that what the cells learn from is known before any is trained
        self._work(of_shard(self.known.cells, self.shard), "cells", self.known.found, after_each=self._write)

    # How cells are worked on, and what is known of them kept.

    def _work(
        self,
        cells: Sequence[Cell],
        title: str,
        found: dict[str, dict[str, Any]],
        after_each: Callable[[], Any] = lambda: None,
    ) -> None:
        """Run those that are not done, and put all into `found`; a failed one is told and kept as such."""

        def finished(cell: Cell) -> bool:
            return cell.id in found and found[cell.id]["cell"]["status"] == "finished"

        for cell in cells:
            if not finished(cell):
                done = read_done(self.workshop.cell_folder(cell))
                if done and cell.is_told_by(done["cell"]):
                    found[cell.id] = done
        left = [cell for cell in cells if not finished(cell)]
        progress = Progress(title, len(cells), len(cells) - len(left))
        groups = grouped(left, how_many(self.together, self.workshop.base.device.type))
        for number, results in self._results_of([(run_cells, (group,), {}) for group in groups]):
            self.known.computed = True
            if isinstance(results, Exception):
                told = results.what if isinstance(results, SymdreamError) else str(results)
                results = [{"cell": failed_entry(cell, "failed", told), "rows": []} for cell in groups[number]]
            for cell, result in zip(groups[number], results, strict=True):
                found[cell.id] = result
                progress.tell(cell.id, result["cell"])
                after_each()

    def _results_of(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
        """The results with the numbers of their tasks, as they end; their seconds are added up."""
        for number, result, seconds in self._do(tasks):
            self.worked += seconds
            yield number, result

    def _write(self) -> dict[str, Any]:
        content, rows = content_and_rows(self.scope, self.workshop, self.known, self.earlier)
        write_rows(self.folder, rows)
        write_results(self.folder, content)
        return content


def _tell_notes(notes: Sequence[str]) -> None:
    for note in notes:
        say(f"  note: {note}")


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None
