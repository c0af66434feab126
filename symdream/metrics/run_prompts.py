"""The prompts that a run is judged by, and whether it has met them before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from symdream.config import Subject
from symdream.data.captions import fill
from symdream.diffusion.base import Base
from symdream.errors import RequestError
from symdream.files import read_json
from symdream.metrics.prompts import PHOTO_SCENES, SPRITE_SCENES, PromptSet, read_prompts
from symdream.training.run_folder import RunFolder
from symdream.ui import say


def run_prompts(subject: Subject, base: Base, file: Path | None = None) -> PromptSet:
    """The prompts a subject is judged by: of `file`, of the prompts.toml beside its photos, or general scenes.

    Raises: RequestError if a prompt does not ask for the subject.
    """
    beside = subject.images / "prompts.toml"
    if file is None and not beside.is_file():
        return SPRITE_SCENES if base.embedded else PHOTO_SCENES
    source = file or beside
    prompts = read_prompts(source)
    if prompts.nothing_held_out():
        say(
            f"note: no prompt in {source} is held out (held_out = true), so all are asked for: where settings, steps "
            "or weights were chosen by them, they flatter the scores."
        )
    asked = prompts.held_out()
    words = (subject.trigger, "{subject}")
    silent = [p.text for p in asked.prompts if not any(word in p.text for word in words)]
    if silent:
        raise RequestError(
            f'{len(silent)} prompts do not ask for the subject, "{silent[0]}" for one.',
            where=str(source),
            fix="write {subject} where it belongs, such as: a photo of a {subject} on a beach",
        )
    return asked


def tell_selected_on(run: RunFolder, subjects: Sequence[Subject], asked: Sequence[PromptSet]) -> None:
    """Say so where the run's step and weight were chosen by prompts of this evaluation: those are not held out."""
    protocol = read_json(run.selection).get("protocol", {})
    chosen_by = {text for texts in protocol.get("prompts", []) for text in texts}
    texts = [
        fill(prompt.text, trigger=subject.trigger, class_noun=subject.class_noun)
        for subject, prompts in zip(subjects, asked, strict=True)
        for prompt in prompts.prompts
    ]
    if both := [text for text in texts if text in chosen_by]:
        say(
            f"note: the step and weight of {run.path} were chosen by {len(both)} of these {len(texts)} prompts "
            f'("{both[0]}"), which flatters its scores; for others: --prompts FILE, or held_out = true in prompts.toml.'
        )
