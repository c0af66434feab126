"""What a subject's cells are measured by: scores of the base alone, the ideal pictures and the photos, and pictures of
its class."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.bench.grid import prompts_of
from symdream.bench.judging import mean_scores
from symdream.bench.workers import Died, Task
from symdream.bench.workshop import Workshop
from symdream.data.images import read_image
from symdream.errors import SymdreamError, WorkError, on_one_line
from symdream.files import read_json, write_json
from symdream.training.outputs import save_png

REFERENCE_FILE = "reference.json"


def take_references(
    compared: Sequence[str], tuned_on: Sequence[str], do: Callable[[Sequence[Task]], Iterator[tuple[int, Any]]]
) -> dict[str, dict[str, Any]]:
    """The reference of every subject by its name, and as NAME-tuning on the selection prompts of those tuned on.

    Raises: WorkError if one cannot be had.
    """
    wanted = [(name, False) for name in [*compared, *tuned_on]] + [(name, True) for name in tuned_on]
    found = {}
    for number, result in do([(reference, (name,), {"tuning": tuning}) for name, tuning in wanted]):
        name, tuning = wanted[number]
        if isinstance(result, Exception):
            fix = "go on with the same command" if isinstance(result, Died) else None
            told = on_one_line(result) if isinstance(result, SymdreamError) else str(result)
            raise WorkError(f"The references of {name} failed: {told.rstrip('.')}.", fix=fix)
        found[f"{name}-tuning" if tuning else name] = result
    return found


def reference(workshop: Workshop, name: str, *, tuning: bool = False) -> dict[str, Any]:
    """What the base alone, the ideal pictures and the photos score on one subject: {scores, rows}.

    On its selection prompts where `tuning`. Kept in references/, pictures included.
    """
    grid, base = workshop.grid, workshop.base
    subject, judge = workshop.subjects[name], workshop.judge_of(name)
    prompts = subject.selection if tuning else prompts_of(grid, subject)
    place = workshop.folder / "references" / (f"{name}-tuning" if tuning else name)
    asked = {
        "base": base.hash, "photos": judge.photos_hash, "prompts": prompts, "seeds": grid.image_seeds,
        "drift": grid.drift_pictures, "sampling": workshop.sampling, "encoders": workshop.encoder_names(),
    }  # fmt: skip
    if judge.beside_hash:
        asked["beside"] = judge.beside_hash
    known = read_json(place / REFERENCE_FILE)
    if known.get("asked") == asked:
        return known
    shutil.rmtree(place, ignore_errors=True)
    pairs = [(prompt, seed) for prompt in prompts for seed in grid.image_seeds]
    _, base_rows = workshop.draw_and_score(judge, pairs, place / "base")
    rows, scores = [{"arm": "base", **row} for row in base_rows], {"base": mean_scores(base_rows), "ceiling": None}
    ideals = {} if tuning else {p: read_image(subject.ideals[p]) for p in prompts if p in subject.ideals}
    if ideals:
        ideal_rows = judge.rows(list(ideals.values()), list(ideals), [None] * len(ideals))
        # Against itself an ideal picture is no measure.
        ideal_rows = [{**row, "dino_matched": None} for row in ideal_rows]
        rows += [{"arm": "ceiling", **row} for row in ideal_rows]
        scores["ceiling"] = mean_scores(ideal_rows)
    scores["real"] = judge.real()
    rows = [{"subject": name, **row} for row in rows]
    content = {"asked": asked, "subject": name, "scores": scores, "rows": rows}
    place.mkdir(parents=True, exist_ok=True)
    write_json(place / REFERENCE_FILE, content)
    return content


def base_class_pictures(workshop: Workshop, name: str) -> list[Image.Image]:
    """Those of the base alone, kept with the subject's reference; nothing may be attached to it where they are not
    there yet."""
    return class_pictures(workshop, name, workshop.folder / "references" / name / "class")


def class_pictures(workshop: Workshop, name: str, place: Path) -> list[Image.Image]:
    """Pictures of the class without the trigger, drawn by the base as it is, once for each folder."""
    grid, subject = workshop.grid, workshop.subjects[name]
    prompts, seeds = prompts_of(grid, subject), grid.image_seeds
    pairs = [(prompts[i % len(prompts)], seeds[(i // len(prompts)) % len(seeds)]) for i in range(grid.drift_pictures)]
    files = [place / f"{i:02d}-{seed}.png" for i, (_, seed) in enumerate(pairs)]
    if all(file.is_file() for file in files):
        return [read_image(file) for file in files]
    texts = [prompt.replace("{subject}", subject.class_noun) for prompt, _ in pairs]
    images = workshop.draw(texts, [seed for _, seed in pairs])
    for file, image in zip(files, images, strict=True):
        save_png(file, image)
    return images
