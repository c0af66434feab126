"""The photos of a subject that scores compare with: a run's own, a sample subject's, or uploaded ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from symdream.data.images import find_images, read_image
from symdream.errors import RequestError
from symdream.settings import read_toml
from symdream.training.run_folder import is_run
from symdream_apps.context import Context
from symdream_apps.upload import check_image

OF_THE_RUN = "run"
NONE = "none"


def choices(context: Context) -> list[tuple[str, str]]:
    """(label, value) for a dropdown: the run's own photos, none, every sample subject."""
    samples = sorted(path.name for path in context.samples.iterdir() if (path / "prompts.toml").is_file())
    fixed = [("those that each adapter learned from", OF_THE_RUN), ("none: no scores", NONE)]
    return fixed + [(f"sample: {name.replace('_', ' ')}", name) for name in samples]


def find(
    context: Context, choice: str, variants: Sequence[Sequence[Path]], uploaded: Sequence[str] | None
) -> tuple[list[list[Path]], str]:
    """The photos that each variant (the paths of its adapters; none: the base alone) is compared with, and what to say
    of them. Uploaded ones win over the choice. OF_THE_RUN: each run's own, for the base alone those of all.

    Raises: RequestError if an uploaded photo is none, or there is no such subject.
    """
    if uploaded:
        return [[check_image(context.check_path(file)) for file in uploaded]] * len(variants), ""
    if choice == NONE:
        return [[] for _ in variants], ""
    if choice != OF_THE_RUN:
        if choice not in (known := [value for _, value in choices(context)]):
            raise RequestError(f'There is no sample subject "{choice}".', fix=f"give one of {', '.join(known)}")
        return [find_images(context.check_path(context.samples / choice))] * len(variants), ""
    runs = {path: _run_of(path) for paths in variants for path in paths}
    looked = {path: _of_run(context, run) for path, run in runs.items() if run}
    own = {path: photos for path, (photos, _) in looked.items() if photos}
    if not own:
        unknown = "No scores: of these adapters no photos are known. Choose a sample subject or drop photos."
        return [[] for _ in variants], next((why for _, why in looked.values()), unknown)
    (first, its), everything = next(iter(own.items())), list(dict.fromkeys(sum(own.values(), [])))
    sets = [next((own[path] for path in paths if path in own), its if paths else everything) for paths in variants]
    notes = []
    if len({tuple(photos) for photos in own.values()}) > 1:
        notes += [
            "These adapters learned from different photos: DINO compares each with its own, the base alone with all."
        ]
    if any(paths and not any(path in own for path in paths) for paths in variants):
        notes += [f"Where there are no photos of one subject to compare with, those of {first.name} stand in."]
    return sets, " ".join(notes)


def _run_of(adapter: Path) -> Path | None:
    """The run that made an adapter: itself, or the one in whose folder the file lies."""
    return next((place for place in (adapter, adapter.parent) if is_run(place)), None)


def _of_run(context: Context, run: Path) -> tuple[list[Path], str]:
    folders = photo_folders(run)
    if not folders:
        return [], f"No scores: {run.name} does not say where its photos are. Drop them here."
    if len(folders) > 1:  # no picture is like the photos of all, and which one a picture shows its prompt decides
        return [], (
            f"No scores: {run.name} learned {len(folders)} subjects. Drop the photos of the one that the prompts name; "
            "symdream evaluate scores each by itself."
        )
    try:
        return [context.check_path(file) for file in find_images(context.check_path(folders[0]))], ""
    except (RequestError, OSError):
        # They are somebody's files outside of what this app may read, or gone.
        return [], f"No scores: the photos of {run.name} are not in this app's folders. Drop them here."


def photo_folders(run: Path) -> list[Path]:
    """The folder of photos of each subject that a run learns, by its config.toml; none where it does not say."""
    try:
        settings = read_toml(run / "config.toml")
        return [Path(subject["images"]) for subject in settings.get("subjects") or [settings["subject"]]]
    except (RequestError, OSError, LookupError, TypeError):  # settings of another shape, too
        return []


def read(files: Sequence[Path]) -> list:
    """The photos as RGB images, as training sees them. Raises: RequestError for one that cannot be read."""
    return [read_image(file) for file in files]
