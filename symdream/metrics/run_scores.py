"""Evaluate a run: its prompts with and without its adapter from the same seeds, scored against its photos."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.config import Subject
from symdream.data.captions import fill
from symdream.data.images import read_image
from symdream.diffusion.adapters import (
    WEIGHTS,
    Disabled,
    attach_saved,
    read_metadata,
    set_weight,
)
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.grid import save_grid
from symdream.diffusion.hashes import weights_hash
from symdream.diffusion.png import save_png
from symdream.errors import RequestError, typed
from symdream.files import json_text, write_json
from symdream.interop.metadata import recommended_weight
from symdream.metrics.bleeding import bleeding
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.class_drift import PICTURES, class_pairs, class_scores
from symdream.metrics.drawing import Drawing
from symdream.metrics.encoders import ClipEncoder, DinoEncoder, load_encoders
from symdream.metrics.evaluate import SCORES, score_images
from symdream.metrics.prompts import PromptSet
from symdream.metrics.references import References, read_references, tell_copies, warn_if_changed
from symdream.metrics.run_prompts import run_prompts, tell_selected_on
from symdream.metrics.suitability import warn_if_unsuitable
from symdream.training.devices import open_accelerator
from symdream.training.processes import resume_command_of
from symdream.training.run_folder import RunFolder
from symdream.ui import say
from symdream.whole_folder import write_folder

FORMAT_VERSION = 1
COUNT = 1  # images for each prompt: a sprite image takes seconds on two CPU cores, and each is drawn twice


def evaluate_run(
    run: RunFolder,
    *,
    base: Base | None = None,
    dino: str | None = None,
    clip: str | None = None,
    prompts: Path | None = None,
    count: int = COUNT,
    seed: int = 0,
    device: str = "auto",
    output: Path | None = None,
    overwrite: bool = False,
    cache: EmbeddingCache | None = None,
    class_pictures: int = PICTURES,
) -> dict[str, Any]:
    """Score `run` before (its base alone) and after (with its adapter), and where ideal pictures exist their ceiling.

    base: the run's base with its adapter attached, where it is loaded already. dino, clip: encoder names (None: the
    embedded ones for sprite, else those for photographs). prompts: a prompts file (None: prompts.toml beside the
    photos, of which the held-out ones, else general scenes). Every prompt is drawn with `count` seeds from `seed` on.
    class_pictures: how many pictures of the class alone measure its drift (symdream.metrics.class_drift; 0: none).

    Writes OUTPUT/before/, OUTPUT/after/, OUTPUT/class/, grid.png and scores.json (None: RUN/evaluation), and `scores`
    and `class_drift` into summary.json. Returns the content of scores.json.
    A run over several subjects is scored subject by subject, each in OUTPUT/subject-N/: `subjects` are their results,
    `bleeding` how much they bleed into each other (symdream.metrics.bleeding), and the scores and the drift in
    summary.json the means over them.
    Raises: RequestError if the run has no adapter, its photos are gone, or the output exists and `overwrite` is off.
    """
    output = run.path / "evaluation" if output is None else Path(output)
    config = run.read_config()
    check_output(output, overwrite)
    if not run.adapter.is_dir():
        raise RequestError(f"{run.path} has no adapter yet.", fix=f"finish its training: {resume_command_of(run.path)}")
    accelerator, dtype = open_accelerator(device, config.model.dtype)
    references = [_photos_of_run(subject) for subject in config.learned]
    warn_if_changed(run, config, references)
    if base is None:
        base = load_base(config.model.base, device=accelerator.device, dtype=dtype)
        attach_saved(base, run.adapter)
        _check_base(base, run)
    dino_encoder, clip_encoder = load_encoders(base.embedded, dino, clip, device=accelerator.device)
    cache = cache or EmbeddingCache()
    asked = [run_prompts(subject, base, prompts) for subject in config.learned]
    tell_selected_on(run, config.learned, asked)
    places = [output / f"subject-{i + 1}" for i in range(len(asked))] if config.subjects else [output]
    # As `generate` does: the scores are of the pictures that a user gets.
    weight = recommended_weight(read_metadata(next(run.adapter.glob(f"*/{WEIGHTS}"))))
    again = f"symdream evaluate --run {typed(run.path)}"
    drawing = Drawing(output, weights_hash(run.adapter, run.adapter.glob("*/*")), again, cache.folder)
    scored = [
        score_subject(
            subject, photos, prompt_set, drawing, config.adapter.method, config.adapter.rank, base,
            dino_encoder, clip_encoder, cache, count=count, seed=seed, weight=weight, class_pictures=class_pictures,
        )
        for subject, photos, prompt_set in zip(config.learned, references, asked, strict=True)
    ]  # fmt: skip
    for place, one in zip(places, scored, strict=True):
        one.write(place, run.path.name)
    drawing.end()
    results = [one.result for one in scored]
    moved = {"class_drift": short_drift(results)} if class_pictures else {}
    if not config.subjects:
        [result] = results
        run.update_summary(scores=short_scores(result), **moved)
        return result
    scores = {
        row: {name: statistics.mean(result[row][name] for result in results) for name in SCORES}
        for row in ("before", "after")
    }
    everything = {
        "format": FORMAT_VERSION,
        "subjects": [
            {"trigger": subject.trigger, "class_noun": subject.class_noun, **result}
            for subject, result in zip(config.learned, results, strict=True)
        ],
        "mean": scores,
    }
    if len(results) > 1:
        embedded_photos = [cache.images(dino_encoder, photos.images) for photos in references]
        everything["bleeding"] = bleeding([cache.images(dino_encoder, one.after) for one in scored], embedded_photos)
    write_json(output / "scores.json", everything)
    run.update_summary(scores=scores, **moved, **{k: everything[k] for k in ("bleeding",) if k in everything})
    return everything


@dataclass
class Scored:
    """One subject's scores, and the pictures that they are of."""

    result: dict[str, Any]  # what scores.json says
    before: list[Image.Image]
    after: list[Image.Image]
    prompts: list[str]  # of each picture
    seeds: list[int]
    class_before: list[Image.Image]  # of the class alone; none where its drift is not asked for
    class_after: list[Image.Image]
    class_pairs: list[tuple[str, int]]  # prompt and seed of each of them

    def write(self, output: Path, adapter: str) -> None:
        """The whole folder or nothing; `adapter` is what the pictures' settings call it.

        Raises: WorkError if it cannot be written; what was there before is then intact.
        """
        write_folder(output, lambda new: self._fill(new, adapter))

    def _fill(self, new: Path, adapter: str) -> None:
        count = len(self.result["seeds"])
        asked = list(zip(self.prompts, self.seeds, strict=True))
        names = [f"{i // count:02d}-{seed}.png" for i, seed in enumerate(self.seeds)]
        sets = {"before": self.before, "after": self.after}
        self._write_pictures(new, sets, names, asked, adapter, shown=slice(0, None, count))
        if self.class_pairs:
            names = [f"{i:02d}-{seed}.png" for i, (_, seed) in enumerate(self.class_pairs)]
            sets = {"before": self.class_before, "after": self.class_after}
            self._write_pictures(new / "class", sets, names, self.class_pairs, adapter, shown=slice(None))
        (new / "scores.json").write_text(json_text(self.result), encoding="utf-8")

    def _write_pictures(
        self,
        place: Path,
        sets: Mapping[str, Sequence[Image.Image]],
        names: Sequence[str],
        asked: Sequence[tuple[str, int]],
        adapter: str,
        *,
        shown: slice,
    ) -> None:
        """PLACE/before/, PLACE/after/ and a grid of those that are `shown`; asked: prompt and seed of each."""
        for side, images in sets.items():
            folder = place / side
            folder.mkdir(parents=True, exist_ok=True)
            for image, name, (prompt, seed) in zip(images, names, asked, strict=True):
                drawn = {"prompt": prompt, "negative_prompt": "", "seed": seed, "base": self.result["base"]["identity"]}
                drawn |= self.result["sampling"] | {"adapter": None}
                if side == "after":
                    drawn |= {"adapter": adapter, "weight": self.result["weight"]}
                save_png(image, folder / name, drawn)
        save_grid(
            place / "grid.png",
            [images[shown] for images in sets.values()],
            row_labels=["the base", "the adapter"],
            column_labels=[prompt for prompt, _ in asked][shown],
        )


def score_subject(
    subject: Subject,
    references: References,
    asked: PromptSet,
    drawing: Drawing,
    method: str,
    rank: int | None,
    base: Base,
    dino_encoder: DinoEncoder,
    clip_encoder: ClipEncoder,
    cache: EmbeddingCache,
    *,
    count: int,
    seed: int,
    weight: float,
    class_pictures: int = PICTURES,
) -> Scored:
    """The scores of one subject, by pictures without the adapter that `base` carries, and with it at `weight`.

    class_pictures: how many of its class alone are drawn beside them, each way (0: none, and no drift).
    """
    warn_if_unsuitable(references.images, dino_encoder, clip_encoder)
    words = {"trigger": subject.trigger, "class_noun": subject.class_noun}
    texts = [fill(prompt.text, **words) for prompt in asked.prompts for _ in range(count)]
    seeds = [seed + i for _ in asked.prompts for i in range(count)]
    pairs = class_pairs(subject, asked.prompts, seed, class_pictures)
    class_texts, class_seeds = [text for text, _ in pairs], [seed for _, seed in pairs]

    def draw(weight: float | None, how: str) -> tuple[list[Image.Image], list[Image.Image]]:
        """Pictures of the subject, and of its class alone."""
        of_subject = drawing.draw(base, texts, seeds, weight=weight, title=f"drawing {how}")
        title = f'drawing any "{subject.class_noun}" {how}'
        of_class = drawing.draw(base, class_texts, class_seeds, weight=weight, title=title) if pairs else []
        return of_subject, of_class

    with Disabled(base):
        before, class_before = draw(None, "without the adapter")
    set_weight(base, weight)
    after, class_after = draw(weight, "with the adapter")
    set_weight(base, 1.0)
    ideal = [(fill(p.text, **words), read_image(p.ideal)) for p in asked.prompts if p.ideal]

    def score(images: Sequence[Image.Image], prompts: Sequence[str]) -> dict:
        return score_images(
            images,
            prompts,
            references.images,
            dino=dino_encoder,
            clip=clip_encoder,
            trigger=subject.trigger,
            cache=cache,
        )

    result: dict[str, Any] = {
        "format": FORMAT_VERSION,
        "base": {"identity": base.identity, "hash": base.hash},
        "method": method,
        "rank": rank,
        "weight": weight,
        "prompts": [prompt.text for prompt in asked.prompts],
        "seeds": seeds[:count],
        "reference_sha256": references.sha256,
        "sampling": {**base.defaults, "sampler": "base", "width": base.resolution, "height": base.resolution},
        "before": score(before, texts),
        "after": score(after, texts),
    }
    tell_copies(result["after"], list(references.sha256))
    if ideal:
        result["ceiling"] = score([image for _, image in ideal], [text for text, _ in ideal])
    if pairs:
        result["class_drift"] = {
            "class_noun": subject.class_noun,
            **class_scores(class_before, class_after, pairs, references.images, dino=dino_encoder, cache=cache),
        }
    return Scored(result, before, after, texts, seeds, class_before, class_after, pairs)


def short_scores(result: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{before, after[, ceiling]: {dino, clip_i, clip_t}}, as summary.json holds it."""
    return {
        row: {name: result[row][name] for name in SCORES} for row in ("before", "after", "ceiling") if row in result
    }


def short_drift(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{drift, pres: {before, after}}, the means over subjects, as summary.json holds it."""
    found = [result["class_drift"] for result in results]
    return {
        "drift": statistics.mean(one["drift"] for one in found),
        "pres": {side: statistics.mean(one["pres"][side] for one in found) for side in ("before", "after")},
    }


def check_output(output: Path, overwrite: bool) -> None:
    """Raises: RequestError if `output` is there and may not be replaced, or is no evaluation."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not overwrite:
        raise RequestError(
            f"{output} exists; an evaluation never writes over another.",
            fix="choose another --output, or replace it with --overwrite",
        )
    if not (output / "scores.json").is_file():
        raise RequestError(
            f"{output} is not an evaluation (no scores.json in it); --overwrite replaces only those.",
            fix="choose another --output, or remove it yourself",
        )


def _photos_of_run(subject: Subject) -> References:
    try:
        return read_references(subject.images)
    except RequestError as error:
        raise RequestError(f"The photos of this run are gone: {error.what}", fix="put them back") from None


def _check_base(base: Base, run: RunFolder) -> None:
    trained = run.read_summary().get("base", {}).get("hash")
    if trained and trained != base.hash:
        say("note: the base's weights are not those that this run was trained on; its scores may be lower for that.")
