"""The run of a cell: an ordinary one of symdream train, trained or gone on with, then scored; and it is done once."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from symdream import settings
from symdream.bench.cells import Cell, failed_entry, read_done, write_done
from symdream.bench.grid import TRIGGER
from symdream.bench.references import base_class_pictures
from symdream.bench.scoring import score_cell
from symdream.bench.workshop import Workshop
from symdream.config import TrainConfig
from symdream.diffusion.adapters import attach_configured
from symdream.diffusion.base import Base
from symdream.diffusion.detach import lent
from symdream.errors import Stopped, SymdreamError
from symdream.training import checkpoint
from symdream.training.defaults import resolve
from symdream.training.run_folder import RunFolder, is_run
from symdream.training.session import run_training
from symdream.ui import only_in_the_log, say


def run_cell(workshop: Workshop, cell: Cell, spent: float = 0.0) -> dict[str, Any]:
    """Train, draw and score `cell`, unless it is done; returns {cell, rows} as cells/ID/cell.json holds them.

    spent: seconds that its training has taken already.
    A cell that fails is returned with its error and not written, so that the next start tries it again.
    Raises: Stopped, KeyboardInterrupt after the run's state is saved.
    """
    place = workshop.cell_folder(cell)
    done = read_done(place)
    if done and cell.is_told_by(done["cell"]):
        return done
    began = time.monotonic()
    try:
        with lent(workshop.base):
            before = base_class_pictures(workshop, cell.subject) if cell.drift_pictures else []
            run, config, trained = train_cell(workshop, cell, place)
            entry, rows = score_cell(workshop, cell, run, config, before)
    except (Stopped, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - whatever goes wrong in one cell, the others go on
        told = error.what if isinstance(error, SymdreamError) else f"{type(error).__name__}: {error}"
        return {"cell": failed_entry(cell, "failed", told), "rows": []}
    seconds = {"seconds": time.monotonic() - began + spent, "seconds_trained": trained + spent}
    write_done(place, {**entry, **seconds}, rows)
    # The optimizer's state is the larger part of a cell, and no longer needed.
    shutil.rmtree(place / "checkpoints", ignore_errors=True)
    return read_done(place)


def config_of(workshop: Workshop, cell: Cell) -> TrainConfig:
    """The settings of an ordinary run, as a person would ask for it."""
    grid, subject = workshop.grid, workshop.subjects[cell.subject]
    flags = {
        "images": subject.folder,
        "class_noun": subject.class_noun,
        "trigger": TRIGGER,
        "base": grid.base,
        "device": grid.device,
        "dtype": grid.dtype,
        "method": cell.method,
        "rank": cell.rank,
        "alpha": cell.settings.alpha,
        "lr": cell.settings.lr,
        "steps": grid.steps,
        "batch_size": grid.batch_size,
        "seed": cell.seed,
        "checkpoint_every": cell.points[0],
        "keep": grid.steps // cell.points[0] + 1,
        "tensorboard": False,
        **grid.train,
    }
    if flags.get("components", "both") != "unet":
        flags["text_encoder_lr"] = cell.settings.text_encoder_lr
    return settings.build(settings.merge({}, flags), f"cell {cell.id}")


def resolved_config(workshop: Workshop, cell: Cell) -> TrainConfig:
    """The settings that the run is trained with on this base, none left open."""
    return resolve(config_of(workshop, cell), workshop.base)


def train_cell(workshop: Workshop, cell: Cell, place: Path) -> tuple[RunFolder, TrainConfig, float]:
    """The cell's finished run, with its adapter on the base, and the seconds that took."""
    began = time.monotonic()
    base, config = workshop.base, resolved_config(workshop, cell)
    resume = is_run(place) and _same(config, place)
    finished = resume and RunFolder(place).read_state().get("status") == "finished"
    if finished and any(checkpoint.damage(place / "checkpoints" / f"step-{point}") for point in cell.points):
        resume = finished = False
    if finished:
        run = RunFolder.open(place)
        _attach_again(base, config)
    else:
        if not resume and place.exists():
            say(f"{place} is half-written and cannot be gone on from; the cell is done again.")
            shutil.rmtree(place)
        run = RunFolder.open(place) if resume else RunFolder.create(place)
        with only_in_the_log():
            run_training(run, config, resume=resume, base=base)
    return run, config, time.monotonic() - began


def _attach_again(base: Base, config: TrainConfig) -> None:
    attach_configured(base, config)
    for module in base.components().values():
        module.eval()


def _same(config: TrainConfig, place: Path) -> bool:
    """Whether the run in `place` was started with these settings."""
    try:
        found = RunFolder(place).read_config()
    except SymdreamError:
        return False
    return _plain(found) == _plain(config)


def _plain(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"output"}) | {"every": config.output.checkpoint_every}
