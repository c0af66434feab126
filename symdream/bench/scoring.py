"""The scores of a finished run: every state that the grid asks for, put on the base again, drawn from and judged."""

from __future__ import annotations

from typing import Any

from PIL import Image

from symdream.bench.cells import Cell, identity
from symdream.bench.judging import mean_scores
from symdream.bench.references import class_pictures
from symdream.bench.spectrum import spectrum_of
from symdream.bench.workshop import Workshop
from symdream.config import TrainConfig
from symdream.diffusion.base import Base
from symdream.training import checkpoint
from symdream.training.run_folder import RunFolder
from symdream.training.schedule import ramp_after
from symdream.tuners import set_ramp


def score_cell(
    workshop: Workshop, cell: Cell, run: RunFolder, config: TrainConfig, before: list[Image.Image]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The cell's entry of results.json, but for its seconds, and its lines of scores.csv.

    The run's adapter is on the base. before: pictures of the class by the base alone; [] if drift is not asked for.
    """
    base, judge = workshop.base, workshop.judge_of(cell.subject)
    trainable = _trainable(base, config)
    points, rows = [], []
    for point in cell.points:
        saved = run.checkpoints / f"step-{point}"
        checkpoint.load_adapters(saved, trainable)
        if config.adapter.ramp is not None:
            for component in trainable:
                u = ramp_after(point, config.training.steps, config.adapter.ramp)
                set_ramp(base.components()[component], u)
        pairs = [(prompt, seed) for prompt in cell.prompts for seed in cell.seeds_at(point)]
        images, found = workshop.draw_and_score(judge, pairs, run.path / "pictures" / f"step-{point}")
        scores = {**mean_scores(found), "diversity": judge.diversity(images), "drift": None}
        if point == cell.points[-1]:
            after = class_pictures(workshop, cell.subject, run.path / "pictures" / "class") if before else []
            scores["drift"] = judge.unchanged(before, after)
        points.append({"step": point, "images": len(images), "scores": scores})
        if point == cell.points[-1] and not all(cell.in_full):
            first = [row for row in found if row["image_seed"] == cell.image_seeds[0]]
            points[-1]["first_seed"] = mean_scores(first)
        rows += [{"cell": cell.id, "arm": cell.arm, "method": cell.method, "rank": cell.rank,
                  "subject": cell.subject, "training_seed": cell.seed, "step": point, **row}
                 for row in found]  # fmt: skip
    summary = run.read_summary()
    step = summary["seconds_per_step"]  # None where the last process did none but the first
    entry = {
        **identity(cell),
        "status": "finished",
        "error": None,
        "parameters": summary["trainable_parameters"],
        "seconds_per_step": step and step / summary.get("trained_together", 1),
        "points": points,
        "spectrum": spectrum_of(base) if cell.spectrum else [],
    }
    return entry, rows


def _trainable(base: Base, config: TrainConfig) -> dict[str, dict[str, Any]]:
    """The adapter's parameters on the base, by component and name."""
    return {
        component: {n: p for n, p in base.components()[component].named_parameters() if p.requires_grad}
        for component in base.chosen(config.adapter.components)
    }
