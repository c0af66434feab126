"""What results.json and scores.csv say of a comparison that is being run: of what is known so far, and of what an
earlier start knew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from symdream.bench.cells import Cell
from symdream.bench.earlier import Earlier
from symdream.bench.environments import environment
from symdream.bench.grid import prompts_of
from symdream.bench.results import assemble
from symdream.bench.scope import Scope
from symdream.bench.settings import Chosen
from symdream.bench.workshop import Workshop
from symdream.training.photographs import FLAT_SHARE, flat_share


@dataclass
class Known:
    """What is known so far: all that changes in the results while a comparison runs."""

    instrument: dict[str, Any] = field(default_factory=dict)
    references: dict[str, dict[str, Any]] = field(default_factory=dict)  # as `take_references` gives them
    chosen: Chosen = field(default_factory=Chosen)
    cells: list[Cell] = field(default_factory=list)  # none until they are planned
    found: dict[str, dict[str, Any]] = field(default_factory=dict)  # {cell, rows} of those that were tried, by id
    computed: bool = False  # whether this start has run a cell


def content_and_rows(
    scope: Scope, workshop: Workshop, known: Known, earlier: Earlier
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """results.json without its analysis, and the lines of scores.csv."""
    content = assemble(_head(scope, workshop, known, earlier), known.cells, known.found)
    rows = [row for name in scope.names for row in known.references[name]["rows"]]
    if known.cells:
        rows += [row for cell in known.cells if cell.id in known.found for row in known.found[cell.id]["rows"]]
    else:  # references and tuning come first: what an earlier start finished is not lost meanwhile
        content["cells"] = earlier.content.get("cells", [])
        rows += [row for row in earlier.rows if row["cell"]]
    before = earlier.content
    if not known.chosen.settings and before.get("settings"):
        # While rates are tuned anew: those that were tuned before, and what they were tuned by.
        photos = {of: {**before["grid"].get(of, {}), **content["grid"][of]} for of in ("photos", "beside")}
        content |= {name: before[name] for name in ("notes", "tuning", "settings")}
        content["grid"] = {**before["grid"], **photos}
    return content, rows


def _head(scope: Scope, workshop: Workshop, known: Known, earlier: Earlier) -> dict[str, Any]:
    """All but the cells."""
    here = environment(workshop.base)
    return {
        "grid": grid_told(scope, workshop, known.chosen),
        "notes": notes_on_photos(workshop, [*scope.names, *scope.tuned_on])
        + notes_on_settings(known.chosen, scope, workshop),
        "environment": here,
        "environments": earlier.environments(here, computed=known.computed),
        "encoders": workshop.encoders(),
        "instrument": known.instrument,
        "tuning": known.chosen.trials,
        "settings": {arm: asdict(found) for arm, found in known.chosen.settings.items()},
        "references": {n: known.references[n]["scores"] for n in scope.names if n in known.references},
    }


def grid_told(scope: Scope, workshop: Workshop, chosen: Chosen) -> dict[str, Any]:
    """`grid` of results.json."""
    grid, base = scope.grid, workshop.base
    judges = {name: workshop.judge_of(name) for name in [*scope.names, *scope.tuned_on]}
    return {
        "name": grid.name,
        "base": {"name": base.name, "identity": base.identity, "hash": base.hash},
        "arms": [arm.describe() for arm in scope.arms],
        "subjects": scope.names,
        "tuning_subjects": scope.tuned_on,
        "training_seeds": grid.training_seeds,
        "image_seeds": grid.image_seeds,
        "prompts": {name: prompts_of(grid, scope.subjects[name]) for name in scope.names},
        "steps": grid.steps,
        "batch_size": grid.batch_size,
        "checkpoints": grid.scored_steps,
        "sampling": workshop.sampling,
        "match": grid.match,
        "tuned": bool(chosen.trials),
        "tuned_under": chosen.under,
        "margin_fraction": grid.margin_fraction,
        "primary": {
            "method": "singlora",
            "against": ["lora", "lora+", "dora", "symlora"],
            "endpoint": "dino at matched clip_t",
        },
        "protocol": scope.protocol,
        "selection": {name: scope.subjects[name].selection for name in scope.tuned_on},
        "photos": {name: judge.photos_hash for name, judge in judges.items()},
        "beside": {name: judge.beside_hash for name, judge in judges.items()},
        "config": grid.model_dump(mode="json"),
    }


def notes_on_photos(workshop: Workshop, names: Sequence[str]) -> list[str]:
    """What a reader must know of these scores before anything else."""
    photos = [photo for name in names for photo in workshop.judge_of(name).photos.values()]
    if workshop.embedded and median(map(flat_share, photos)) < FLAT_SHARE:
        return [
            "The base is sprite, which draws emoji art, and the subjects are photographs: this proves that the "
            "machinery runs, and the scores mean nothing."
        ]
    return []


def notes_on_settings(chosen: Chosen, scope: Scope, workshop: Workshop) -> list[str]:
    """What a reader must know of the settings that were taken from elsewhere."""
    under, grid = chosen.under, scope.grid
    if under is None or under["protocol"] == scope.protocol:
        return []
    return [
        f"The settings were tuned under another protocol: {under['steps']} steps at batch {under['batch_size']} on "
        f"{under['base']}; here it is {grid.steps} at batch {grid.batch_size} on {workshop.base.name}, and "
        "the sampling, the encoders or what [train] sets may differ too. They need not be the best here."
    ]
