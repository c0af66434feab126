"""Which checkpoint, at which weight, and when to stop: found out while training, by scores on pictures drawn then.

Every `select_every` steps, and after the last, the state just saved is scored (symdream.training.judge) and the best
so far (symdream.training.criterion) is marked: the file checkpoints/best names its folder, which pruning leaves alone.
In the end its adapter is scored at the WEIGHTS too, and the best of them is recommended.

RUN/selection.json keeps every score with the protocol it came from, and each checkpoint those that were there before
it. What follows from them (the mark, the end) follows again after a resume: so no score is computed twice, and a
resumed run decides as an unbroken one. Scores of steps after the checkpoint that a resume begins from are dropped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator

from symdream.config import TrainConfig
from symdream.diffusion.adapters import set_weight
from symdream.diffusion.base import Base
from symdream.errors import RequestError, WorkError
from symdream.files import read_json, write_json
from symdream.training import checkpoint, criterion, processes
from symdream.training.criterion import Scale, Scores
from symdream.training.judge import Judge
from symdream.training.run_folder import RunFolder
from symdream.training.schedule import ramp_after
from symdream.tuners import set_ramp
from symdream.ui import say

WEIGHTS = (1.0, 0.8, 1.2, 0.6)  # of equally good ones the first: as trained, else the nearest to it
FORMAT_VERSION = 1
Show = Callable[[int, Mapping[str, float]], None]


@dataclass(frozen=True)
class SelectedCheckpoint:
    """The state a run ends with: `weight` None where nothing was selected."""

    step: int
    weight: float | None = None


class Selection:
    """The scores of a run and what follows from them; without a judge (selection off, other processes) nothing does.

    Raises: RequestError if the scores of a resumed run came from other prompts or encoders.
    """

    def __init__(
        self,
        run: RunFolder,
        config: TrainConfig,
        base: Base,
        trainable: Mapping[str, Mapping[str, torch.nn.Parameter]],
        judge: Judge | None,
        first: int,
        saved: Mapping[str, Any],
    ):
        self.run, self.config, self.base, self.trainable, self.judge = run, config, base, trainable, judge
        self.file = run.selection
        self.steps = config.training.steps
        self.found: dict[tuple[int, float], Scores] = {}
        self.scale: Scale | None = None
        if judge is not None:
            for known in (saved, read_json(self.file)):
                self._take_over(known, first)

    def due(self, step: int) -> bool:
        """Whether the state after `step` is to be scored, and so to be saved."""
        every = self.config.selection.select_every
        return bool(every) and step > 0 and (step % every == 0 or step == self.steps)

    def score(self, step: int, show: Show) -> None:
        """Score the state after `step`, just saved, where its score is not known yet, and mark the best so far."""
        if self.judge is None:
            return
        known = (step, 1.0) in self.found
        scores = self._scores(step, 1.0)
        if not known:
            score = self.scale.score(scores)
            say(f"  step {step}: DINO {scores.dino:.3f}, CLIP-T {scores.clip_t:.3f}, together {score:.3f}")
            show(step, {"selection/DINO": scores.dino, "selection/CLIP-T": scores.clip_t, "selection/together": score})
        checkpoint.mark_best(self.run.checkpoints, self._best_step())

    def patience_is_over(self, step: int, accelerator: Accelerator) -> bool:
        """Whether the last scores, that of `step` among them, were all no better: in all processes alike."""
        if not self.due(step):
            return False
        patience = self.config.selection.patience
        over = self.judge is not None and criterion.exhausted([self._score(s) for s in self._steps()], patience)
        if over:
            best = self._best_step()
            say(
                f"Stopping after step {step} of {self.steps}: "
                f"{patience} scores in a row were no better than that of step {best} ({self._score(best):.3f})."
            )
        if accelerator.num_processes > 1:
            over = bool(accelerator.reduce(torch.tensor(float(over), device=accelerator.device)) > 0)
        return over

    def restore_best(self, reached: int) -> SelectedCheckpoint:
        """Put the best state on the base, find its best weight, and write both into summary.json.

        Without a judge the state stays the last. Raises: WorkError if no checkpoint of a scored state is intact.
        """
        if self.judge is None:
            return SelectedCheckpoint(reached)
        step = self._load_best()
        tried = list(WEIGHTS)
        weight = tried[criterion.best([self.scale.score(self._scores(step, weight)) for weight in tried])]
        scores = self.found[step, weight]
        reason = self._reason(step, weight, reached)
        say(reason)
        self.run.update_summary(selection={"step": step, "weight": weight, **asdict(scores), "reason": reason})
        return SelectedCheckpoint(step, weight)

    def _scores(self, step: int, weight: float) -> Scores:
        """Of the state on the base, which is that after `step`, where they are not known yet."""
        if (step, weight) not in self.found:
            self._set_ramp(step)
            if self.scale is None:
                self.scale = self.judge.scale()
            set_weight(self.base, weight)
            try:
                self.found[step, weight] = self.judge.scores()
            finally:
                set_weight(self.base, 1.0)
            write_json(self.file, self.content(), parents=False)
        return self.found[step, weight]

    def _set_ramp(self, step: int) -> None:
        """SingLoRA's u as it was in the update that led to `step`."""
        for component in self.trainable:
            set_ramp(self.base.components()[component], ramp_after(step, self.steps, self.config.adapter.ramp))

    def _steps(self) -> list[int]:
        return sorted(step for step, weight in self.found if weight == 1.0)

    def _score(self, step: int) -> float:
        return self.scale.score(self.found[step, 1.0])

    def _best_step(self) -> int:
        steps = self._steps()
        return steps[criterion.best([self._score(step) for step in steps])]

    def _load_best(self) -> int:
        """Load the best state whose checkpoint is intact; returns its step."""
        steps = self._steps()
        for step in sorted(steps, key=lambda s: (-self._score(s), s)):
            saved = self.run.checkpoints / f"step-{step}"
            if not saved.is_dir():
                continue  # pruned: it was not the best, or the mark was on one found damaged now
            if problem := checkpoint.damage(saved):
                say(f"{saved} is damaged: {problem}; taking the best of the others.")
                continue
            checkpoint.load_adapters(saved, self.trainable)
            checkpoint.mark_best(self.run.checkpoints, step)
            self._set_ramp(step)
            return step
        raise WorkError(
            f"No checkpoint in {self.run.checkpoints} that was scored is intact.",
            fix=f"train once more from the last intact one: {processes.resume_command_of(self.run.path)}",
        )

    def _reason(self, step: int, weight: float, reached: int) -> str:
        scores = self.found[step, weight]
        looks = f"the best of {len(self._steps())} states" if len(self._steps()) > 1 else "the only state scored"
        ended = ""
        if reached < self.steps:
            ended = f" Training ended at step {reached} of {self.steps}: no score after it was better."
        return (
            f"Step {step} at weight {weight:g} is {looks}: DINO {scores.dino:.3f} is "
            f"{self.scale.likeness(scores):.0%} of the way from the base to the photos, CLIP-T {scores.clip_t:.3f} "
            f"{self.scale.obedience(scores):.0%} of the way from the photos to the base.{ended}"
        )

    def _take_over(self, known: Mapping[str, Any], first: int) -> None:
        """The scores of states up to `first` from `known`, which `content` made, or which is empty."""
        if not known or first == 0:
            return
        # Through JSON, as what it is compared with: that has no tuples.
        if known["protocol"] != json.loads(json.dumps(self.judge.protocol())):
            raise RequestError(
                f"The prompts or encoders of the selection are not those that {self.run.path} was started with.",
                where=str(self.file),
                fix="put the old ones back, or start a new run",
            )
        self.scale = Scale(Scores(**known["base"]), Scores(**known["photos"]))
        for row in known["scores"]:
            if row["step"] <= first:
                self.found[row["step"], row["weight"]] = Scores(row["dino"], row["clip_t"])

    def content(self) -> dict[str, Any]:
        """All scores so far, ready for JSON; {} while there are none."""
        if self.scale is None:
            return {}
        return {
            "format": FORMAT_VERSION,
            "protocol": self.judge.protocol(),
            "base": asdict(self.scale.base),
            "photos": asdict(self.scale.photos),
            "scores": [
                {"step": step, "weight": weight, **asdict(scores), "together": self.scale.score(scores)}
                for (step, weight), scores in sorted(self.found.items())
            ],
        }
