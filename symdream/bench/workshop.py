"""One warm process: base and encoders are loaded once, and cell after cell is trained, drawn and scored with them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from symdream import config as settings
from symdream.bench.cells import Cell, failed_entry, identity, read_done, write_done
from symdream.bench.grid import TRIGGER, Grid, prompts_of, subjects_of
from symdream.bench.judging import Judge, SubjectJudge, mean_scores
from symdream.bench.spectrum import spectrum_of
from symdream.bench.subjects import BenchSubject
from symdream.config import TrainConfig
from symdream.data.images import read_image
from symdream.diffusion.adapters import attach_configured
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.detach import detach
from symdream.diffusion.sampling import sample
from symdream.errors import Stopped, SymdreamError
from symdream.files import read_json, write_json
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.run_scores import load_encoders
from symdream.training import checkpoint
from symdream.training.batched import train_together, what_differs
from symdream.training.defaults import resolve
from symdream.training.devices import open_accelerator
from symdream.training.outputs import save_png
from symdream.training.run_folder import RunFolder, is_run
from symdream.training.schedule import ramp_after
from symdream.training.session import run_training
from symdream.tuners import set_ramp
from symdream.ui import only_in_the_log, say

REFERENCE_FILE = "reference.json"


class Workshop:
    """Works on the cells of `grid` in `folder`. What is shared is made when it is first needed."""

    def __init__(self, grid: Grid, folder: Path):
        self.grid, self.folder = grid, Path(folder)
        self.subjects: dict[str, BenchSubject] = subjects_of(grid)
        self._judges: dict[str, SubjectJudge] = {}

    @cached_property
    def _device(self):
        return open_accelerator(self.grid.device, self.grid.dtype)

    @cached_property
    def base(self) -> Base:
        accelerator, dtype = self._device
        return load_base(self.grid.base, device=accelerator.device, dtype=dtype)

    @cached_property
    def judge(self) -> Judge:
        dino, clip = load_encoders(self.base, self.grid.dino, self.grid.clip, self._device[0].device)
        return Judge(dino, clip, EmbeddingCache())

    def judge_of(self, name: str) -> SubjectJudge:
        if name not in self._judges:
            self._judges[name] = self.judge.of(self.subjects[name])
        return self._judges[name]

    @property
    def sampling(self) -> dict[str, Any]:
        """How every picture is drawn."""
        defaults = self.base.defaults
        return {
            "sampler": self.grid.sampler,
            "steps": self.grid.sampling_steps or defaults["steps"],
            "guidance": self.grid.guidance or defaults["guidance"],
        }

    def draw(self, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """One picture each, by the base as it is."""
        return sample(self.base, texts, seeds, **self.sampling) if texts else []

    # The base's own pictures and the ideal ones.

    def reference(self, name: str, *, tuning: bool = False) -> dict[str, Any]:
        """What the base alone, the ideal pictures and the photos score on one subject: {scores, rows}.

        On its selection prompts where `tuning`. Kept in references/, pictures included.
        """
        subject, judge = self.subjects[name], self.judge_of(name)
        prompts = subject.selection if tuning else prompts_of(self.grid, subject)
        place = self.folder / "references" / (f"{name}-tuning" if tuning else name)
        asked = {
            "base": self.base.hash, "photos": judge.photos_hash, "prompts": prompts, "seeds": self.grid.image_seeds,
            "drift": self.grid.drift_pictures, "sampling": self.sampling, "encoders": self.encoder_names(),
        }  # fmt: skip
        if judge.beside_hash:
            asked["beside"] = judge.beside_hash
        known = read_json(place / REFERENCE_FILE)
        if known.get("asked") == asked:
            return known
        shutil.rmtree(place, ignore_errors=True)
        detach(self.base)
        pairs = [(prompt, seed) for prompt in prompts for seed in self.grid.image_seeds]
        base_rows = self._score(judge, self._drawn(place / "base", judge, pairs), pairs)
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

    def class_pictures(self, name: str, place: Path) -> list[Image.Image]:
        """Pictures of the class without the trigger, drawn by the base as it is, once for each folder."""
        subject = self.subjects[name]
        pairs = self._class_pairs(subject)
        files = [place / f"{i:02d}-{seed}.png" for i, (_, seed) in enumerate(pairs)]
        if all(file.is_file() for file in files):
            return [read_image(file) for file in files]
        texts = [prompt.replace("{subject}", subject.class_noun) for prompt, _ in pairs]
        images = self.draw(texts, [seed for _, seed in pairs])
        for file, image in zip(files, images, strict=True):
            save_png(file, image)
        return images

    def _class_pairs(self, subject: BenchSubject) -> list[tuple[str, int]]:
        prompts, seeds = prompts_of(self.grid, subject), self.grid.image_seeds
        return [(prompts[i % len(prompts)], seeds[(i // len(prompts)) % len(seeds)])
                for i in range(self.grid.drift_pictures)]  # fmt: skip

    # Cells.

    def run_cells(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Train, draw and score each of `cells` (see `run_cell`); those that can be are trained in one loop first."""
        shared = self._train_together(cells)
        return [self.run_cell(cell, shared.get(cell.id, 0.0)) for cell in cells]

    def _train_together(self, cells: Sequence[Cell]) -> dict[str, float]:
        """Train those that have not been begun in one loop, where their settings allow it; `run_cell` then finds them.

        What goes wrong is told, and costs time alone: `run_cell` trains what is not finished.
        Returns the seconds that fall to each cell that is.
        """
        fresh = [cell for cell in cells if not (self.folder / "cells" / cell.id).exists()]
        if len(fresh) < 2:
            return {}
        began = time.monotonic()
        runs: list[RunFolder] = []
        try:
            configs = [resolve(self.config_of(cell), self.base) for cell in fresh]
            if problems := what_differs(configs):
                say(f"  {len(fresh)} cells are trained one by one: {problems[0]}")
                return {}
            for cell in fresh:
                runs.append(RunFolder.create(self.folder / "cells" / cell.id))
            self.base.to(self.base.device)  # the last run may have parked parts of it
            with only_in_the_log():
                finished = train_together(runs, configs, self.base, keep=fresh[0].points)
            for run, done in zip(runs, finished, strict=True):
                if not done:
                    error = run.read_state().get("error") or "its state.json could not be written"
                    say(f"  {run.path.name} failed in one loop with others; it is trained alone: {error}")
        except Exception as error:  # noqa: BLE001 - whatever goes wrong together may go well alone
            say(f"  training {len(fresh)} cells in one loop failed; they are trained one by one: {error}")
        finally:
            for run in runs:
                if run.path.exists() and run.read_state().get("status") != "finished":
                    shutil.rmtree(run.path)
        seconds = (time.monotonic() - began) / len(fresh)
        return {run.path.name: seconds for run in runs if run.path.exists()}

    def run_cell(self, cell: Cell, spent: float = 0.0) -> dict[str, Any]:
        """Train, draw and score `cell`, unless it is done; returns {cell, rows} as cells/ID/cell.json holds them.

        spent: seconds that its training has taken already.
        A cell that fails is returned with its error and not written, so that the next start tries it again.
        Raises: Stopped, KeyboardInterrupt after the run's state is saved.
        """
        place = self.folder / "cells" / cell.id
        done = read_done(place)
        if done and cell.is_told_by(done["cell"]):
            return done
        began = time.monotonic()
        try:
            detach(self.base)
            before = self._base_class_pictures(cell)
            run, config, trained = self._trained(cell, place)
            entry, rows = self._scored(cell, run, config, before)
        except (Stopped, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001 - whatever goes wrong in one cell, the others go on
            told = error.what if isinstance(error, SymdreamError) else f"{type(error).__name__}: {error}"
            return {"cell": failed_entry(cell, "failed", told), "rows": []}
        finally:
            detach(self.base)
        seconds = {"seconds": time.monotonic() - began + spent, "seconds_trained": trained + spent}
        write_done(place, {**entry, **seconds}, rows)
        # The optimizer's state is the larger part of a cell, and no longer needed.
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
        return read_done(place)

    def _base_class_pictures(self, cell: Cell) -> list[Image.Image]:
        if not cell.drift_pictures:
            return []
        return self.class_pictures(cell.subject, self.folder / "references" / cell.subject / "class")

    def config_of(self, cell: Cell) -> TrainConfig:
        """The settings of an ordinary run."""
        subject = self.subjects[cell.subject]
        flags = {
            "images": subject.folder,
            "class_noun": subject.class_noun,
            "trigger": TRIGGER,
            "base": self.grid.base,
            "device": self.grid.device,
            "dtype": self.grid.dtype,
            "method": cell.method,
            "rank": cell.rank,
            "alpha": cell.settings.alpha,
            "lr": cell.settings.lr,
            "steps": self.grid.steps,
            "batch_size": self.grid.batch_size,
            "seed": cell.seed,
            "checkpoint_every": cell.points[0],
            "keep": self.grid.steps // cell.points[0] + 1,
            "tensorboard": False,
            **self.grid.train,
        }
        if flags.get("components", "both") != "unet":
            flags["text_encoder_lr"] = cell.settings.text_encoder_lr
        return settings.build(settings.merge({}, flags), f"cell {cell.id}")

    def _trained(self, cell: Cell, place: Path) -> tuple[RunFolder, TrainConfig, float]:
        """The cell's finished run, with its adapter on the base, and the seconds that took."""
        began = time.monotonic()
        config = resolve(self.config_of(cell), self.base)
        resume = is_run(place) and _same(config, place)
        finished = resume and RunFolder(place).read_state().get("status") == "finished"
        if finished and any(checkpoint.damage(place / "checkpoints" / f"step-{point}") for point in cell.points):
            resume = finished = False
        if finished:
            run = RunFolder.open(place)
            self._attach_again(config)
        else:
            if not resume and place.exists():
                say(f"{place} is half-written and cannot be gone on from; the cell is done again.")
                shutil.rmtree(place)
            run = RunFolder.open(place) if resume else RunFolder.create(place)
            self.base.to(self.base.device)  # the last run may have parked parts of it
            with only_in_the_log():
                run_training(run, config, resume=resume, base=self.base)
        return run, config, time.monotonic() - began

    def _attach_again(self, config: TrainConfig) -> None:
        attach_configured(self.base, config)
        for module in self.base.components().values():
            module.eval()

    def _trainable(self, config: TrainConfig) -> dict[str, dict[str, Any]]:
        """The adapter's parameters on the base, by component and name."""
        return {
            component: {n: p for n, p in self.base.components()[component].named_parameters() if p.requires_grad}
            for component in self.base.chosen(config.adapter.components)
        }

    def _scored(
        self, cell: Cell, run: RunFolder, config: TrainConfig, before: list[Image.Image]
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        trainable, judge = self._trainable(config), self.judge_of(cell.subject)
        points, rows = [], []
        for point in cell.points:
            saved = run.checkpoints / f"step-{point}"
            checkpoint.load_adapters(saved, trainable)
            if config.adapter.ramp is not None:
                for component in trainable:
                    u = ramp_after(point, config.training.steps, config.adapter.ramp)
                    set_ramp(self.base.components()[component], u)
            pairs = [(prompt, seed) for prompt in cell.prompts for seed in cell.seeds_at(point)]
            images = self._drawn(run.path / "pictures" / f"step-{point}", judge, pairs)
            found = self._score(judge, images, pairs)
            scores = {**mean_scores(found), "diversity": judge.diversity(images), "drift": None}
            if point == cell.points[-1]:
                after = self.class_pictures(cell.subject, run.path / "pictures" / "class") if before else []
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
            "spectrum": spectrum_of(self.base) if cell.spectrum else [],
        }
        return entry, rows

    def _drawn(self, place: Path, judge: SubjectJudge, pairs: Sequence[tuple[str, int]]) -> list[Image.Image]:
        images = self.draw([judge.text(prompt) for prompt, _ in pairs], [seed for _, seed in pairs])
        order = list(dict.fromkeys(prompt for prompt, _ in pairs))
        for image, (prompt, seed) in zip(images, pairs, strict=True):
            save_png(place / f"{order.index(prompt):02d}-{seed}.png", image)
        return images

    @staticmethod
    def _score(judge: SubjectJudge, images: list[Image.Image], pairs: Sequence[tuple[str, int]]) -> list[dict]:
        return judge.rows(images, [prompt for prompt, _ in pairs], [seed for _, seed in pairs])

    def encoder_names(self) -> list[str]:
        return [encoder.fingerprint for encoder in (self.judge.dino, self.judge.clip)]

    def encoders(self) -> dict[str, Any]:
        """Where every score comes from."""
        return {
            name: {"id": e.provenance["model"], "hash": e.provenance["weights_sha256"],
                   "preprocessing": e.provenance["preprocessing"], "provenance": e.provenance}
            for name, e in (("dino", self.judge.dino), ("clip", self.judge.clip))
        }  # fmt: skip


def _same(config: TrainConfig, place: Path) -> bool:
    """Whether the run in `place` was started with these settings."""
    try:
        found = RunFolder(place).read_config()
    except SymdreamError:
        return False
    return _plain(found) == _plain(config)


def _plain(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"output"}) | {"every": config.output.checkpoint_every}
