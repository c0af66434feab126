"""What a grid would take: cells, pictures, hours on this device by a short measurement, and disk."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

from symdream.bench import grid as grids
from symdream.bench import tuning
from symdream.bench.arms import HALVED, Arm, make_arms
from symdream.bench.cells import Cell, grid_cells, of_shard
from symdream.bench.grid import Grid
from symdream.bench.runs import config_of
from symdream.bench.workshop import Workshop
from symdream.diffusion.detach import lent
from symdream.diffusion.names import resolve_name
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training
from symdream.ui import only_in_the_log

MEASURED_STEPS = 4
BYTES_OF_PICTURE = 2.0  # a pixel, as PNG; sprite's pictures measured 0.9 to 1.9
BYTES_OF_RUN = 300_000  # settings, log, metrics and scores of one cell


def plan(grid: Grid, folder: Path, shard: tuple[int, int], processes: int) -> str:
    """The answer of --dry-run, for people. Nothing is downloaded; a base that is not here is said to be unknown."""
    if not _at_hand(grid.base):
        return (
            f"{grid.base} is not on this machine: fetch it with symdream base get {grid.base}, and the parameters, "
            f"hours and disk can be told.\n{_counts(grid, Workshop(grid, folder))}"
        )
    workshop = Workshop(grid, folder)
    arms = make_arms(grid, workshop.base)
    cells = of_shard(_cells(grid, workshop, arms), shard)
    trials = _trials(grid, workshop, arms)
    step, picture = measure(workshop)
    images = sum(cell.images() for cell in cells)
    references = _reference_images(grid, workshop)
    seconds = sum(grid.steps * step + cell.images() * picture for cell in cells)
    tuned = [sum(grid.steps * step + cell.images() * picture for cell in t) for t in trials]
    pixels = workshop.base.resolution**2
    adapters = sum(4 * arm.parameters for arm in arms) / len(arms)
    disk = len(cells) * (adapters + BYTES_OF_RUN) + (images + references) * BYTES_OF_PICTURE * pixels
    free = shutil.disk_usage(next(p for p in [folder.resolve(), *folder.resolve().parents] if p.exists())).free
    each = cells[0].images() if cells else 0
    lines = [
        f"arms      {len(arms)}: " + ", ".join(f"{arm.label} ({arm.parameters:,} parameters)" for arm in arms),
        f"cells     {len(cells)}"
        + (f" (shard {shard[0] + 1} of {shard[1]})" if shard[1] > 1 else "")
        + f": {len(arms)} arms × {len(grids.compared_subjects(grid, workshop.subjects))} subjects × "
        f"{len(grid.training_seeds)} seeds, {grid.steps} steps at batch {grid.batch_size} each",
        f"images    {images:,}: {each} a cell, and {references} of the base",
        f"speed     {step:.2f} s a training step, {picture:.2f} s an image, measured just now on "
        f"{workshop.base.device.type} with one process",
        f"hours     {seconds / 3600:.1f}, {seconds / max(1, len(cells)):.0f} s a cell",
    ]
    if grid.tune:
        lines[-1] += (
            f"; before them {len(trials[0])} to {len(trials[1])} tuning runs, {tuned[0] / 3600:.1f} to "
            f"{tuned[1] / 3600:.1f} hours"
        )
    if processes > 1:
        lines[-1] += f"; with {processes} processes of one thread up to {processes} times less where cores are free"
    lines.append(f"disk      {disk / 1e9:.2f} GB in {folder}, of {free / 1e9:.0f} GB free")
    return "\n".join(lines)


def measure(workshop: Workshop) -> tuple[float, float]:
    """Seconds of a training step (the median of a few, with LoRA) and of a picture, on this device."""
    arm = next(iter(make_arms(workshop.grid, workshop.base)))
    cell = _cells(workshop.grid, workshop, [arm])[0]
    config = config_of(workshop, cell)
    config.training.steps, config.output.checkpoint_every = MEASURED_STEPS, 0
    with tempfile.TemporaryDirectory() as temporary, lent(workshop.base):
        run = RunFolder.create(Path(temporary) / "measured")
        with only_in_the_log():
            run_training(run, config, base=workshop.base)
        step = run.read_summary()["seconds_per_step"]
        began = time.monotonic()
        workshop.draw([workshop.judge_of(cell.subject).text(cell.prompts[0])], [0])
        picture = time.monotonic() - began
    return step, picture


def _cells(grid: Grid, workshop: Workshop, arms: list[Arm]) -> list[Cell]:
    settings = {arm.id: tuning.defaults(arm, embedded=workshop.embedded) for arm in arms}
    names = grids.compared_subjects(grid, workshop.subjects)
    return grid_cells(grid, arms, names, workshop.subjects, settings, "")


def _trials(grid: Grid, workshop: Workshop, arms: list[Arm]) -> tuple[list[Cell], list[Cell]]:
    """The runs of tuning: of the first rates, and of as many as are allowed."""
    names = grids.tuning_subjects(grid, workshop.subjects)

    def runs(rates: int) -> list[Cell]:
        return [
            cell
            for arm in arms
            for place in range(rates)
            for alpha in grid.tuning_alphas
            for cell in tuning.trial_cells(
                tuning.Trial(arm.id, place, alpha), arm, grid, names, workshop.subjects, "", embedded=True
            )
        ]

    return runs(grid.tuning_trials), runs(grid.tuning_limit)


def _reference_images(grid: Grid, workshop: Workshop) -> int:
    names = grids.compared_subjects(grid, workshop.subjects)
    seeds = len(grid.image_seeds)
    drawn = sum(len(grids.prompts_of(grid, workshop.subjects[n])) * seeds + grid.drift_pictures for n in names)
    if grid.tune:
        for name in grids.tuning_subjects(grid, workshop.subjects):
            subject = workshop.subjects[name]
            drawn += (len(grids.prompts_of(grid, subject)) + len(subject.selection)) * seeds
    return drawn


def _counts(grid: Grid, workshop: Workshop) -> str:
    names = grids.compared_subjects(grid, workshop.subjects)
    halved = sum(method in HALVED for method in grid.methods)
    arms = len(grid.ranks) * (len(grid.methods) + (halved if grid.match == "both" else 0))
    cells = arms * len(names) * len(grid.training_seeds)
    return f"cells     {cells}: {arms} arms × {len(names)} subjects × {len(grid.training_seeds)} seeds"


def _at_hand(base: str) -> bool:
    source = resolve_name(base)
    if source.kind != "hub":
        return True
    from symdream.diffusion.hub import cached_snapshot, is_complete

    snapshot = cached_snapshot(source)
    return snapshot is not None and is_complete(snapshot.folder)
