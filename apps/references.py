"""The photos of a subject that scores compare with: a run's own, a sample subject's, or uploaded ones."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

from symdream.data.images import find_images, read_image
from symdream.errors import RequestError
from symdream.training.run_folder import is_run
from symdream_apps.context import Context
from symdream_apps.upload import check_image

OF_THE_RUN = "run"
NONE = "none"


def choices(context: Context) -> list[tuple[str, str]]:
    """(label, value) for a dropdown: the run's own photos, none, every sample subject."""
    samples = sorted(path.name for path in context.samples.iterdir() if (path / "prompts.toml").is_file())
    fixed = [("those that the adapter learned from", OF_THE_RUN), ("none: no scores", NONE)]
    return fixed + [(f"sample: {name.replace('_', ' ')}", name) for name in samples]


def find(
    context: Context, choice: str, adapters: Sequence[Path], uploaded: Sequence[str] | None
) -> tuple[list[Path], str]:
    """The photos, and what to say where there are none. Uploaded ones win over the choice.

    Raises: RequestError if an uploaded photo is none, or there is no such subject.
    """
    if uploaded:
        return [check_image(context.check_path(file)) for file in uploaded], ""
    if choice == NONE:
        return [], ""
    if choice != OF_THE_RUN:
        folder = context.samples / Path(choice).name
        return find_images(context.check_path(folder)), ""
    for adapter in adapters:
        if is_run(adapter):
            return _of_run(context, adapter)
    return [], "No scores: of these adapters no photos are known. Choose a sample subject or drop photos."


def _of_run(context: Context, run: Path) -> tuple[list[Path], str]:
    try:
        folder = Path(tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["subject"]["images"])
        return [context.check_path(file) for file in find_images(context.check_path(folder))], ""
    except RequestError:
        # They are somebody's files outside of what this app may read, or gone.
        return [], f"No scores: the photos of {run.name} are not in this app's folders. Drop them here."
    except (tomllib.TOMLDecodeError, KeyError, TypeError, OSError, UnicodeDecodeError):
        return [], f"No scores: {run.name} does not say where its photos are. Drop them here."


def read(files: Sequence[Path]) -> list:
    """The photos as RGB images, as training sees them. Raises: RequestError for one that cannot be read."""
    return [read_image(file) for file in files]
