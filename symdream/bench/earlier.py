"""What an earlier start left in the folder, and whether this grid may go on with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from symdream.bench import tuning
from symdream.bench.cells import Cell, Settings
from symdream.bench.environments import distinct, environments_of
from symdream.bench.grid import GRID_FILE
from symdream.bench.results import read_results, read_rows
from symdream.bench.same_grid import other_pictures, other_work
from symdream.bench.settings import Chosen
from symdream.bench.wording import count
from symdream.errors import RequestError, typed
from symdream.ui import say


@dataclass(frozen=True)
class Earlier:
    """results.json ({} if there was none) and scores.csv as they were found in `folder`.

    `now`, below, is `grid` of results.json as this start would write it.
    """

    folder: Path
    content: dict[str, Any]
    rows: list[dict[str, Any]]

    @staticmethod
    def read(folder: Path) -> Earlier:
        """Raises: RequestError if they are damaged or of another format."""
        return Earlier(folder, read_results(folder) or {}, read_rows(folder))

    @property
    def finished(self) -> list[dict[str, Any]]:
        """The entries of finished cells."""
        return [entry for entry in self.content.get("cells", []) if entry["status"] == "finished"]

    def refuse_another_grid(self, now: dict[str, Any]) -> None:
        """Refuse a grid whose cells cannot be compared with those that are here, or that lacks finished ones.

        Raises: RequestError.
        """
        before, finished = self.content.get("grid"), self.finished
        if before is None:
            return
        if found := other_work(before, now) + (other_pictures(before, now) if finished else []):
            raise RequestError(
                f"{self.folder} holds another comparison; this one has {'; '.join(found)}.",
                fix=f"put the old ones back (its grid: --config {typed(self.folder / GRID_FILE)}), "
                "or choose another --output",
            )
        asked = {"arm": [arm["id"] for arm in now["arms"]], "subject": now["subjects"], "seed": now["training_seeds"]}
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

    def tuned(self, now: dict[str, Any]) -> Chosen | None:
        """What was tuned here, None if this grid has to be tuned anew.

        Raises: RequestError if finished cells were trained with what would be tuned anew.
        """
        grid = self.content.get("grid", {})
        if not self.content.get("tuning") or grid.get("protocol") != now["protocol"]:
            return None
        if changed := tuning.changed(grid, now):
            told = f"The rates were tuned with other {', '.join(changed)} before"
            if self.finished:
                raise RequestError(
                    f"{told}, and {self.folder} holds finished cells that were trained with them.",
                    fix="put the old ones back, or choose another --output",
                )
            say(f"{told}; they are tuned anew.")
            return None
        settings = {arm: Settings(**found) for arm, found in self.content.get("settings", {}).items()}
        if any(arm["id"] not in settings for arm in now["arms"]):
            return None
        say("The settings are those that were tuned before.")
        return Chosen(settings, self.content["tuning"], grid.get("tuned_under"))

    def done(self, planned: Sequence[Cell], *, tune: bool) -> dict[str, dict[str, Any]]:
        """{cell, rows} of those that are finished here, wherever their run folders are; tune: whether the grid asks.

        Raises: RequestError if a finished cell would be lost, since it is planned with other settings.
        """
        cells = {cell.id: cell for cell in planned}
        others = [entry for entry in self.finished if not cells[entry["id"]].is_told_by(entry)]
        if others:
            old, new = others[0]["settings"], asdict(cells[others[0]["id"]].settings)
            raise RequestError(
                f"{self.folder} holds {count(len(others), 'finished cell')} that would be lost, as their settings are "
                f"others than this grid's: {others[0]['id']} has {old}, not {new}.",
                fix="give the same --settings, or --fixed, as before; or choose another --output"
                + (f", with --settings {typed(self.folder)}" if tune else ""),
            )
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            rows.setdefault(row["cell"], []).append(row)
        return {e["id"]: {"cell": e, "rows": rows[e["id"]]} for e in self.finished if e["id"] in rows}

    def environments(self, here: dict[str, Any], *, computed: bool) -> list[dict[str, Any]]:
        """All that the cells were computed in: earlier starts may have had another machine or other versions.

        computed: whether this start has run a cell.
        """
        before = environments_of(self.content) if self.finished else []
        return distinct([*before, here]) if computed or not before else before
