"""The endpoints about runs and adapter files for gradio_client; documented in docs/app.md."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from symdream.errors import Problem, Problems
from symdream_apps import train_request, watching
from symdream_apps.adapters import named
from symdream_apps.arguments import checked
from symdream_apps.context import Context
from symdream_apps.errors import told
from symdream_apps.exports import export_for_others
from symdream_apps.history import served
from symdream_apps.photo_check import MOST
from symdream_apps.run_status import Status, metrics
from symdream_apps.runs import Runs


def build(context: Context, runs: Runs) -> None:
    """Register the endpoints; call it inside of the Blocks."""
    tell = told(context)

    def train_start(
        class_noun: str,
        photos: list[gr.FileData] | None = None,
        sample: str | None = None,
        captions: list[str] | None = None,
        trigger: str = "sks",
        base: str = "sprite",
        method: str = "singlora",
        preset: str | None = None,
        name: str = "",
        settings: dict | None = None,
    ) -> dict:
        """Queue a run on 3 to 6 photos, at most 30, or a sample subject such as "owl"; it starts when no other trains.

        captions: one for each photo, "" for the base's template. preset: quick, quality, paper or None. settings: any
        others by the names of `symdream train`, such as {"steps": 100, "rank": 16}.
        Returns what train_status returns for it; its key "run" is the name for the other calls.
        """
        files = [uploaded(context, photo) for photo in photos or []]
        texts = dict(zip(map(str, files), captions or [], strict=False))
        problems = []
        if len(files) > MOST:  # the page takes the first ones and says so; nobody sees a note of it here
            problems.append(Problem("photos", f"are {len(files)}: give at most {MOST}"))
        if captions and len(captions) != len(files):
            problems.append(Problem("captions", f"are {len(captions)} for {len(files)} photos"))
        if problems:
            raise Problems("the request", problems)
        run = train_request.start(
            context, runs,
            photos=files, captions=texts, sample=sample, name=name, class_noun=class_noun, trigger=trigger, base=base,
            method=method, preset=preset, settings=settings,
        )  # fmt: skip
        runs.start_next()
        return known(context, runs, runs.status(run))

    def train_status(run: str | None = None) -> dict:
        """How a run is doing, or without a name {"runs": [all of them]}.

        {"run", "status": queued|starting|running|stopping|stopped|finished|failed|killed|evaluating, "step", "steps",
        "seconds_left", "error", "place" in the queue, "loss" of the last step, "samples": [PNG files, newest first]}
        """
        if run is None:
            return {"runs": [known(context, runs, status) for status in runs.statuses()]}
        return known(context, runs, runs.status(run))

    def train_stop(run: str) -> dict:
        """Let a run end after its step, everything saved, or take it out of the queue; returns train_status of it."""
        runs.stop(run)
        return known(context, runs, runs.status(run))

    def train_resume(run: str) -> dict:
        """Queue a run that was stopped, failed or was killed, to go on from its checkpoint; train_status of it."""
        runs.resume(run)
        runs.start_next()
        return known(context, runs, runs.status(run))

    def export(adapter: str, to: str = "kohya", dtype: str = "fp32", weight: float | None = None) -> dict:
        """Write a run's or file's adapter for other tools: to kohya, diffusers, peft (zipped) or merged.

        weight: its new weight 1 is this weight of now (null: 1; merged takes what its training found best).

        Returns {"files": [the file, and a .txt and .png that tell about it]}.
        """
        if weight is not None and not math.isfinite(weight):
            raise Problems("the request", [Problem(f"weight {weight}", "must be a number")])
        files = export_for_others(context, named(context, adapter), to, dtype=dtype, weight=weight)
        return {"files": [gr.FileData(path=str(file), orig_name=file.name).model_dump() for file in files]}

    def inspect(adapter: str) -> dict:
        """What an adapter tells: format, method, ranks, trigger, base, norm and spectrum of each layer, metadata,
        warnings (as `symdream inspect --json`)."""
        from symdream.interop.inspect import inspect_adapter

        path = named(context, adapter)
        facts = inspect_adapter(path)
        del facts["path"]  # what has such a key is a file to gradio_client, which would fetch it
        return {"name": context.name_of(path), **facts}

    for endpoint in (train_start, train_status, train_stop, train_resume, export, inspect):
        gr.api(tell(checked(endpoint)), api_name=endpoint.__name__)


def uploaded(context: Context, photo: Any) -> Path:
    """The path of a file that gradio took in. Raises: RequestError if it is not one of the uploads."""
    path = photo.get("path") if isinstance(photo, dict) else getattr(photo, "path", photo)
    checked = context.check_path(str(path))
    if not checked.is_relative_to(context.uploads) or not checked.is_file():
        raise Problems("the request", [Problem("photos", f"{checked.name} was not uploaded")])
    return checked


def known(context: Context, runs: Runs, status: Status) -> dict[str, Any]:
    """A status as plain values, with the loss of the last step and the pictures drawn on the way."""
    run = runs.get(status.name)
    lines = metrics(run)
    pictures = [served(context, file) for file in watching.sample_files(run)]
    facts = asdict(status)
    return {
        "run": facts.pop("name"),
        **facts,
        "loss": lines[-1]["loss"] if lines else None,
        "samples": [gr.FileData(path=str(p), orig_name=Path(p).name).model_dump() for p in pictures],
    }
