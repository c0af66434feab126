"""Runs a grid: references, instrument, tuning, cells; writes what is known after each, and the report at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from symdream.bench import grid as grids
from symdream.bench import tuning
from symdream.bench.arms import Arm, make_arms
from symdream.bench.cells import Cell, Settings, failed_entry, grid_cells, of_shard, protocol_of, read_done
from symdream.bench.environments import distinct, environment, environments_of
from symdream.bench.grid import GRID_FILE, Grid
from symdream.bench.instrument import test_instrument
from symdream.bench.lock import locked
from symdream.bench.results import assemble, read_results, read_rows, write_results, write_rows
from symdream.bench.same_grid import other_pictures, other_work
from symdream.bench.settings import Given
from symdream.bench.together import grouped, how_many
from symdream.bench.wording import count
from symdream.bench.workers import Died, Done, Task, Workers, in_this_process
from symdream.bench.workshop import Workshop
from symdream.diffusion.photographs import FLAT_SHARE, flat_share
from symdream.errors import RequestError, Stopped, SymdreamError, WorkError, on_one_line, typed
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
        self.subjects = self.workshop.subjects
        self.names = grids.compared_subjects(grid, self.subjects)
        self.tuned_on = grids.tuning_subjects(grid, self.subjects) if grid.tune else []
        self.known = read_results(self.folder) or {}
        self.rows_before = read_rows(self.folder)
        self.found: dict[str, dict[str, Any]] = {}
        self.references: dict[str, dict[str, Any]] = {}
        self.tuning: list[dict[str, Any]] = []
        self.settings: dict[str, Settings] = {}
        self.tuned_under: dict[str, Any] | None = None  # None: tuned here, or not at all
        self.instrument: dict[str, Any] = {}
        self.cells: list[Cell] = []
        self.arms: list[Arm] = []
        self.worked = 0.0  # seconds inside tasks
        self.computed = False  # whether this start has run a cell

    def run(self, given: Given | None = None, *, tuning_only: bool = False) -> dict[str, Any]:
        """Do what is not done yet; returns results.json. `given`: settings tuned before; `tuning_only`: then stop.

        Raises: RequestError if the folder holds another grid, is in use, or an encoder cannot be had; Stopped.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.folder) as lock, signals_like_ctrl_c():
                return self._run(given, tuning_only, lock)
        except (Stopped, KeyboardInterrupt):
            raise Stopped(
                f"Stopped; what is finished in {self.folder} stays finished.",
                fix="go on with the same command",
            ) from None

    def _run(self, given: Given | None, tuning_only: bool, lock: int) -> dict[str, Any]:
        began = time.monotonic()
        with ExitStack() as stack:
            workshop = self.workshop
            say(f"Comparing in {self.folder}: loading {self.grid.base} and the encoders.")
            self.arms = make_arms(self.grid, workshop.base)
            self.protocol = protocol_of(self.grid, workshop.base.hash, workshop.encoder_names())
            self._refuse_another_grid()
            known_settings = given is not None or not self.grid.tune
            if known_settings:
                self._settle(given)
                self._plan_cells()
            before = self._grid_file
            write_text(self.folder / GRID_FILE, grids.to_toml(self.grid))
            self.instrument = test_instrument(workshop)
            self._tell_instrument()
            for note in self._notes():
                say(f"  note: {note}")
            self.do: Callable[[Sequence[Task]], Iterator[Done]] = lambda tasks: in_this_process(workshop, tasks)
            if self.processes > 1:
                self.do = stack.enter_context(Workers(self.processes, self.grid, self.folder, lock)).do
            self._take_references()
            if not known_settings:
                self._settle(None)
            if not tuning_only:
                if not known_settings:
                    try:
                        self._plan_cells()
                    except RequestError:
                        if before is not None:  # what was here is as it was
                            write_text(self.folder / GRID_FILE, before)
                        raise
                self._take_cells()
            result = self._write()
        seconds = time.monotonic() - began
        overhead = 1 - self.worked / self.processes / seconds
        say(f"{seconds / 60:.1f} minutes; {overhead:.1%} of them passed outside of cells and references.")
        return result

    # What each phase does.

    def _take_references(self) -> None:
        wanted = [(name, False) for name in [*self.names, *self.tuned_on]] + [(name, True) for name in self.tuned_on]
        tasks = [("reference", (name,), {"tuning": tuning}) for name, tuning in wanted]
        for number, result in self._timed(self.do(tasks)):
            name, tuning = wanted[number]
            if isinstance(result, Exception):
                fix = "go on with the same command" if isinstance(result, Died) else None
                told = on_one_line(result) if isinstance(result, SymdreamError) else str(result)
                raise WorkError(f"The references of {name} failed: {told.rstrip('.')}.", fix=fix)
            self.references[f"{name}-tuning" if tuning else name] = result

    def _settle(self, given: Given | None) -> None:
        """Find what every arm is trained with: given, tuned, or of the table of methods."""
        if given is not None:
            self.settings, self.tuning, self.tuned_under = given.settings, given.trials, given.under
            if lacking := [arm.label for arm in self.arms if arm.id not in self.settings]:
                raise RequestError(f"The given settings have none for {', '.join(lacking)}.", fix="tune these arms too")
        elif self.grid.tune:
            self.settings = self._tune()
        else:
            self.settings = self._settings_of_table()
        for note in self._notes_on_settings():
            say(f"  note: {note}")

    def _tune(self) -> dict[str, Settings]:
        """Tune every arm, or take over what an earlier results.json found."""
        if taken := self._tuned_before():
            return taken
        self._write()  # so that what the trials learn from is known before any is trained
        arms = {arm.id: arm for arm in self.arms}
        objectives: dict[str, dict[tuning.Trial, float]] = {arm: {} for arm in arms}
        trials = [t for arm in arms for t in tuning.first_trials(arm, self.grid)]
        while trials:
            self._try(trials, arms, objectives)
            trials = tuning.next_trials(objectives, self.grid)
            if trials:
                edges = [arm for arm, found in objectives.items() if tuning.at_edge(found)]
                say(
                    f"  the best rate lies at the edge of the range of {', '.join(edges)}: one more trial for every arm"
                )
        chosen = {}
        for arm, found in objectives.items():
            best = tuning.best_of(found)
            chosen[arm] = best.settings(arms[arm], embedded=self._embedded)
            for entry in self.tuning:
                if entry["arm"] == arm:
                    entry["chosen"] = entry["lr"] == chosen[arm].lr and entry["alpha"] == chosen[arm].alpha
            edge = " (at the edge of the range: the limit of trials is reached)" if tuning.at_edge(found) else ""
            curve = ", ".join(
                f"{t.settings(arms[arm], embedded=self._embedded).lr:g}: {value:+.3f}"
                for t, value in sorted(found.items(), key=lambda item: (item[0].alpha, item[0].place))
            )
            say(f"  {arms[arm].label}: lr {chosen[arm].lr:g}, alpha {chosen[arm].alpha:g}{edge}   [{curve}]")
        return chosen

    def _try(self, trials: Sequence[tuning.Trial], arms: Mapping[str, Arm], objectives: dict[str, dict]) -> None:
        each = [
            (trial, cell)
            for trial in trials
            for cell in tuning.trial_cells(
                trial, arms[trial.arm], self.grid, self.tuned_on, self.subjects, self.protocol, embedded=self._embedded
            )
        ]
        done = self._work([cell for _, cell in each], "tuning")
        base = [self.references[f"{name}-tuning"]["scores"] for name in self.tuned_on]
        floor = tuning.floor_of(self.grid, base, [self.references[name]["scores"] for name in self.tuned_on])
        for trial in trials:
            cells = [cell for other, cell in each if other == trial]
            scores = [done[c.id]["cell"]["points"][-1]["scores"] for c in cells if done[c.id]["cell"]["points"]]
            whole = len(scores) == len(cells)
            value = tuning.objective(scores, [b["base"] for b in base], floor) if whole else float("-inf")
            objectives[trial.arm][trial] = value
            for cell in cells:
                points = done[cell.id]["cell"]["points"]
                self.tuning.append({
                    "arm": cell.arm, "lr": cell.settings.lr, "text_encoder_lr": cell.settings.text_encoder_lr,
                    "alpha": cell.settings.alpha, "subject": cell.subject, "seed": cell.seed,
                    "scores": points[-1]["scores"] if points else None, "error": done[cell.id]["cell"]["error"],
                    "objective": value if whole else None, "clip_t_floor": floor, "chosen": False,
                })  # fmt: skip
        self._write()

    @property
    def _grid_file(self) -> str | None:
        file = self.folder / GRID_FILE
        return file.read_text(encoding="utf-8") if file.is_file() else None

    def _plan_cells(self) -> None:
        """Raises: RequestError if finished cells would be lost."""
        self.cells = grid_cells(self.grid, self.arms, self.names, self.subjects, self.settings, self.protocol)
        self._take_over()

    def _take_cells(self) -> None:
        self._write()  # so that what the cells learn from is known before any is trained
        self._work(of_shard(self.cells, self.shard), "cells", found=self.found)

    def _work(
        self, cells: Sequence[Cell], title: str, found: dict[str, dict[str, Any]] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Run those that are not done; a failed one is told and kept as such."""
        found = {} if found is None else found
        for cell in cells:
            if cell.id not in found or found[cell.id]["cell"]["status"] != "finished":
                done = read_done(self.folder / "cells" / cell.id)
                if done and cell.is_told_by(done["cell"]):
                    found[cell.id] = done
        left = [c for c in cells if c.id not in found or found[c.id]["cell"]["status"] != "finished"]
        before = len(cells) - len(left)
        if before:
            say(f"{title}: {before} of {len(cells)} are finished already.")
        began = time.monotonic()
        groups = grouped(left, how_many(self.together, self.workshop.base.device.type))
        for number, (cell, result) in enumerate(self._results(groups), 1):
            found[cell.id] = result
            remaining = (time.monotonic() - began) / number * (len(left) - number)
            say(f"{title} {before + number}/{len(cells)}  {_told(cell.id, result['cell'])}  {_left(remaining)}")
            if title == "cells":
                self._write()
        return found

    def _results(self, groups: Sequence[tuple[Cell, ...]]) -> Iterator[tuple[Cell, dict[str, Any]]]:
        """Run the groups; their cells, each with its result, as they end."""
        for number, results in self._timed(self.do([("run_cells", (group,), {}) for group in groups])):
            group = groups[number]
            self.computed = True
            if isinstance(results, Exception):
                told = results.what if isinstance(results, SymdreamError) else str(results)
                results = [{"cell": failed_entry(cell, "failed", told), "rows": []} for cell in group]
            yield from zip(group, results, strict=True)

    def _timed(self, results: Iterator[Done]) -> Iterator[tuple[int, Any]]:
        """Pass results on, adding up the seconds that they took."""
        for number, result, seconds in results:
            self.worked += seconds
            yield number, result

    # What was known before.

    @property
    def _embedded(self) -> bool:
        return self.workshop.base.identity == "sprite"

    def _settings_of_table(self) -> dict[str, Settings]:
        return {arm.id: tuning.defaults(arm, embedded=self._embedded) for arm in self.arms}

    def _tuned_before(self) -> dict[str, Settings] | None:
        grid = self.known.get("grid", {})
        if not self.known.get("tuning") or grid.get("protocol") != self.protocol:
            return None
        if changed := tuning.changed(grid, self._grid_told()):
            told = f"The rates were tuned with other {', '.join(changed)} before"
            if self._finished_before:
                raise RequestError(
                    f"{told}, and {self.folder} holds finished cells that were trained with them.",
                    fix="put the old ones back, or choose another --output",
                )
            say(f"{told}; they are tuned anew.")
            return None
        settings = {arm: Settings(**found) for arm, found in self.known.get("settings", {}).items()}
        if any(arm.id not in settings for arm in self.arms):
            return None
        self.tuning, self.tuned_under = self.known["tuning"], grid.get("tuned_under")
        say("The settings are those that were tuned before.")
        return settings

    def _take_over(self) -> None:
        """Cells that are finished in an earlier results.json, wherever their run folders are."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows_before:
            rows.setdefault(row["cell"], []).append(row)
        cells = {cell.id: cell for cell in self.cells}
        others = [entry for entry in self._finished_before if not cells[entry["id"]].is_told_by(entry)]
        if others:
            old, new = others[0]["settings"], asdict(cells[others[0]["id"]].settings)
            raise RequestError(
                f"{self.folder} holds {count(len(others), 'finished cell')} that would be lost, as their settings are "
                f"others than this grid's: {others[0]['id']} has {old}, not {new}.",
                fix="give the same --settings, or --fixed, as before; or choose another --output"
                + (f", with --settings {typed(self.folder)}" if self.grid.tune else ""),
            )
        for entry in self._finished_before:
            if entry["id"] in rows:
                self.found[entry["id"]] = {"cell": entry, "rows": rows[entry["id"]]}

    @property
    def _finished_before(self) -> list[dict[str, Any]]:
        return [entry for entry in self.known.get("cells", []) if entry["status"] == "finished"]

    def _refuse_another_grid(self) -> None:
        """Refuse a grid whose cells cannot be compared with those that are here, or that lacks finished ones."""
        before, now = self.known.get("grid"), self._grid_told()
        if before is None:
            return
        finished = self._finished_before
        if found := other_work(before, now) + (other_pictures(before, now) if finished else []):
            raise RequestError(
                f"{self.folder} holds another comparison; this one has {'; '.join(found)}.",
                fix=f"put the old ones back (its grid: --config {typed(self.folder / GRID_FILE)}), "
                "or choose another --output",
            )
        asked = {"arm": [arm.id for arm in self.arms], "subject": self.names, "seed": self.grid.training_seeds}
        lacking = {
            name: list(dict.fromkeys(entry[name] for entry in finished if entry[name] not in values))
            for name, values in asked.items()
        }
        if told := [f"{name} {', '.join(map(str, values))}" for name, values in lacking.items() if values]:
            raise RequestError(
                f"{self.folder} holds finished cells that this grid does not ask for, and that would be lost: "
                f"{'; '.join(told)}.",
                fix="ask for them too (--methods, --ranks, --match, --subjects, --seeds), or choose another --output",
            )

    # What is written.

    def _grid_told(self) -> dict[str, Any]:
        """`grid` of results.json."""
        grid, workshop = self.grid, self.workshop
        base = workshop.base
        judges = {name: workshop.judge_of(name) for name in [*self.names, *self.tuned_on]}
        return {
            "name": grid.name,
            "base": {"name": base.name, "identity": base.identity, "hash": base.hash},
            "arms": [arm.describe() for arm in self.arms],
            "subjects": self.names,
            "tuning_subjects": self.tuned_on,
            "training_seeds": grid.training_seeds,
            "image_seeds": grid.image_seeds,
            "prompts": {name: grids.prompts_of(grid, self.subjects[name]) for name in self.names},
            "steps": grid.steps,
            "batch_size": grid.batch_size,
            "checkpoints": grid.scored_steps,
            "sampling": workshop.sampling,
            "match": grid.match,
            "tuned": bool(self.tuning),
            "tuned_under": self.tuned_under,
            "margin_fraction": grid.margin_fraction,
            "primary": {
                "method": "singlora",
                "against": ["lora", "lora+", "dora", "symlora"],
                "endpoint": "dino at matched clip_t",
            },
            "protocol": self.protocol,
            "selection": {name: self.subjects[name].selection for name in self.tuned_on},
            "photos": {name: judge.photos_hash for name, judge in judges.items()},
            "beside": {name: judge.beside_hash for name, judge in judges.items()},
            "config": grid.model_dump(mode="json"),
        }

    def _head(self) -> dict[str, Any]:
        workshop = self.workshop
        here = environment(workshop.base)
        return {
            "grid": self._grid_told(),
            "notes": self._notes() + self._notes_on_settings(),
            "environment": here,
            "environments": self._environments(here),
            "encoders": workshop.encoders(),
            "instrument": self.instrument,
            "tuning": self.tuning,
            "settings": {arm: asdict(found) for arm, found in self.settings.items()},
            "references": {name: self.references[name]["scores"] for name in self.names if name in self.references},
        }

    def _environments(self, here: dict[str, Any]) -> list[dict[str, Any]]:
        """All that the cells were computed in: earlier starts may have had another machine or other versions."""
        finished = any(cell["status"] == "finished" for cell in self.known.get("cells", []))
        before = environments_of(self.known) if finished else []
        return distinct([*before, here]) if self.computed or not before else before

    def _notes(self) -> list[str]:
        """What a reader must know of these scores before anything else."""
        names = [*self.names, *self.tuned_on]
        photos = [photo for name in names for photo in self.workshop.judge_of(name).photos.values()]
        if self._embedded and median(map(flat_share, photos)) < FLAT_SHARE:
            return [
                "The base is sprite, which draws emoji art, and the subjects are photographs: this proves that the "
                "machinery runs, and the scores mean nothing."
            ]
        return []

    def _notes_on_settings(self) -> list[str]:
        """What a reader must know of the settings that were taken from elsewhere."""
        under, grid = self.tuned_under, self.grid
        if under is None or under["protocol"] == self.protocol:
            return []
        return [
            f"The settings were tuned under another protocol: {under['steps']} steps at batch {under['batch_size']} on "
            f"{under['base']}; here it is {grid.steps} at batch {grid.batch_size} on {self.workshop.base.name}, and "
            "the sampling, the encoders or what [train] sets may differ too. They need not be the best here."
        ]

    def _rows(self) -> list[dict[str, Any]]:
        rows = [row for name in self.names for row in self.references[name]["rows"]]
        if not self.cells:
            return rows + [row for row in self.rows_before if row["cell"]]
        return rows + [row for cell in self.cells if cell.id in self.found for row in self.found[cell.id]["rows"]]

    def _write(self) -> dict[str, Any]:
        content, rows = assemble(self._head(), self.cells, self.found), self._rows()
        if not self.cells:  # references and tuning come first: what an earlier start finished is not lost meanwhile
            content["cells"] = self.known.get("cells", [])
        if not self.settings and self.known.get("settings"):
            # While rates are tuned anew: those that were tuned before, and what they were tuned by.
            photos = {of: {**self.known["grid"].get(of, {}), **content["grid"][of]} for of in ("photos", "beside")}
            content |= {name: self.known[name] for name in ("notes", "tuning", "settings")}
            content["grid"] = {**self.known["grid"], **photos}
        write_rows(self.folder, rows)
        write_results(self.folder, content)
        return content

    def _tell_instrument(self) -> None:
        for name in ("dino", "clip_i"):
            found = self.instrument[name]
            if found["auc"] is None:
                say(f"  {name}: its power to tell subjects apart could not be tested: {found['why']}.")
            else:
                verdict = "" if found["enough"] else ": it measures class and style more than identity"
                say(f"  {name} tells a subject from others with AUC {found['auc']:.3f}{verdict}")


def _told(name: str, entry: Mapping[str, Any]) -> str:
    if entry["status"] != "finished":
        return f"{name} FAILED: {entry['error']}"
    scores = entry["points"][-1]["scores"]
    return f"{name}  DINO {scores['dino']:.3f}  CLIP-T {scores['clip_t']:.3f}  {entry['seconds']:.0f} s"


def _left(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 5400 else f"{seconds / 3600:.1f} h left"
