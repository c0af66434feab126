"""One warm process: base, encoders and judges are loaded once, and cell after cell is drawn and scored with them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.bench.cells import Cell
from symdream.bench.grid import Grid, subjects_of
from symdream.bench.judging import Judge, SubjectJudge
from symdream.bench.subjects import BenchSubject
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.sampling import sample
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import load_encoders
from symdream.training.devices import open_accelerator
from symdream.training.outputs import save_png


class Workshop:
    """For the cells of `grid` in `folder`. What is shared is made when it is first needed."""

    def __init__(self, grid: Grid, folder: Path):
        self.grid, self.folder = grid, Path(folder)
        self.subjects: dict[str, BenchSubject] = subjects_of(grid)
        self._judges: dict[str, SubjectJudge] = {}

    def cell_folder(self, cell: Cell) -> Path:
        return self.folder / "cells" / cell.id

    @cached_property
    def _device(self):
        return open_accelerator(self.grid.device, self.grid.dtype)

    @cached_property
    def base(self) -> Base:
        accelerator, dtype = self._device
        return load_base(self.grid.base, device=accelerator.device, dtype=dtype)

    @property
    def embedded(self) -> bool:
        """Whether the base is sprite, for which the methods have rates of their own."""
        return self.base.embedded

    @cached_property
    def judge(self) -> Judge:
        dino, clip = load_encoders(self.embedded, self.grid.dino, self.grid.clip, device=self._device[0].device)
        return Judge(dino, clip, EmbeddingCache())

    def judge_of(self, name: str) -> SubjectJudge:
        if name not in self._judges:
            self._judges[name] = self.judge.of(self.subjects[name])
        return self._judges[name]

    def encoder_names(self) -> list[str]:
        return [encoder.fingerprint for encoder in (self.judge.dino, self.judge.clip)]

    def encoders(self) -> dict[str, Any]:
        """Where every score comes from."""
        return {
            name: {"id": e.provenance["model"], "hash": e.provenance["weights_sha256"],
                   "preprocessing": e.provenance["preprocessing"], "provenance": e.provenance}
            for name, e in (("dino", self.judge.dino), ("clip", self.judge.clip))
        }  # fmt: skip

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

    def draw_and_score(
        self, judge: SubjectJudge, pairs: Sequence[tuple[str, int]], place: Path
    ) -> tuple[list[Image.Image], list[dict[str, Any]]]:
        """A picture for each (prompt, image seed), kept in `place`, and its scores."""
        prompts, seeds = [prompt for prompt, _ in pairs], [seed for _, seed in pairs]
        images = self.draw([judge.text(prompt) for prompt in prompts], seeds)
        order = list(dict.fromkeys(prompts))
        for image, (prompt, seed) in zip(images, pairs, strict=True):
            save_png(place / f"{order.index(prompt):02d}-{seed}.png", image)
        return images, judge.rows(images, prompts, seeds)
