"""What a page shows of a run while it trains and after: a sentence, a loss curve, the pictures on the way."""

from __future__ import annotations

import html
from pathlib import Path

import pandas as pd
from PIL import Image

from symdream.progress import duration
from symdream.training.run_folder import RunFolder
from symdream_apps.run_status import Status, metrics, summary_of, whence
from symdream_apps.runs import Runs
from symdream_apps.upload import UNREADABLE

POINTS = 300  # of a curve: more are not seen, and every one is sent again with each look
SMOOTH = 0.95  # as the trainer's own smoothed loss
EACH, SMOOTHED = "each step", "smoothed"
PICTURES = 12


def label(status: Status) -> str:
    """A run in a list: its name and how it is doing."""
    done = f"{status.step}/{status.steps}"
    words = {
        "queued": f"waits, number {status.place} in the queue",
        "starting": "starts",
        "running": f"trains, {done}",
        "stopping": f"stops, {done}",
        "evaluating": "is evaluated",
        "stopped": f"stopped at {done}",
        "finished": f"finished, {status.step} steps",
        "failed": f"failed at {done}",
        "killed": f"broken off at {done}",
    }
    return f"{status.name}: {words.get(status.status, status.status)}"


def sentence(runs: Runs, status: Status) -> str:
    """How the run is doing, as HTML: one sentence, a bar while it trains, and an error with what to do."""
    run, name = runs.get(status.name), f"<strong>{html.escape(status.name)}</strong>"
    done = f"step {status.step} of {status.steps}"
    loading = status.status == "running" and (run.is_loading or not metrics(run))
    left = f", {time_left(status.seconds_left)} left" if status.seconds_left else ""
    onward = f"; it goes on from step {status.step}" if status.step else ""
    words = {
        "queued": f"{name} waits for its turn: number {status.place} in the queue.",
        "starting": f"{name} starts: Python loads its libraries.",
        "running": f"{name} loads the base and the photos{onward}." if loading else f"{name} trains: {done}{left}.",
        "stopping": f"{name} ends after the step that it is at, and saves everything ({done}).",
        "evaluating": f"{name} is finished; its pictures are being scored.",
        "stopped": f"{name} stopped after {done}; everything is saved. Resume goes on from there.",
        "finished": f"{name} is finished: {status.step} steps{took(run)}.",
        "failed": f"{name} failed at {done}; Resume goes on {whence(run)}.",
        "killed": f"{name} broke off.",
    }
    lines = [f"<p>{words.get(status.status, f'{name}: {html.escape(status.status)}')}</p>"]
    if status.status in ("running", "stopping") and not loading:
        # Without the text a screen reader would say the number alone.
        lines.append(
            f'<progress value="{status.step}" max="{max(1, status.steps)}" style="width:100%" '
            f'aria-label="steps of {html.escape(status.name)}">{done}</progress>'
        )
    if status.error:
        lines.append("<p>" + "<br>".join(map(html.escape, status.error.splitlines())) + "</p>")
    return "\n".join(lines)


def time_left(seconds: float) -> str:
    return f"about {duration(max(1, seconds))}"


def took(run: RunFolder) -> str:
    seconds = summary_of(run).get("seconds_total")
    return f" in {duration(max(1, seconds))}" if isinstance(seconds, int | float) else ""


def curve(run: RunFolder) -> pd.DataFrame:
    """Columns step, loss, line ("each step" or "smoothed"), at most POINTS steps evenly spread and the last."""
    rows, smooth = [], None
    for line in metrics(run):
        smooth = line["loss"] if smooth is None else SMOOTH * smooth + (1 - SMOOTH) * line["loss"]
        rows.append((line["step"], line["loss"], smooth))
    stride = -(-len(rows) // POINTS) or 1
    kept = rows[::stride] + ([rows[-1]] if rows and (len(rows) - 1) % stride else [])
    table = [row for step, loss, smooth in kept for row in ((step, loss, EACH), (step, smooth, SMOOTHED))]
    return pd.DataFrame(table, columns=["step", "loss", "line"])


def sample_files(run: RunFolder) -> list[Path]:
    """The pictures drawn on the way, the newest first."""
    return sorted(run.samples.glob("step-*.png"), reverse=True)[:PICTURES] if run.samples.is_dir() else []


def pictures(files: list[Path]) -> list[tuple[Image.Image, str]]:
    """Files as a gallery's (image, caption); one that vanishes meanwhile is left out."""
    shown = []
    for file in files:
        try:
            with Image.open(file) as image:
                shown.append((image.convert("RGB"), f"after step {int(file.stem.rpartition('-')[2])}"))
        except UNREADABLE:
            continue
    return shown
