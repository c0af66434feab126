"""From what the Train page, or a client of its endpoint, asks for to a run in the queue."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symdream.diffusion.names import EMBEDDED
from symdream.diffusion.sizes import KNOWN
from symdream.errors import Problem, Problems, RequestError
from symdream.metrics.prompts import PHOTO_SCENES, SPRITE_SCENES, read_prompts
from symdream.presets import PRESETS
from symdream.settings import fields
from symdream.tuners.methods import METHODS
from symdream_apps.bases import checked_base, side_of
from symdream_apps.context import Context
from symdream_apps.photo_check import check, copy_photos
from symdream_apps.runs import NAME_BYTES, Runs

SAMPLE_EVERY = 50  # steps: some pictures on the way, at a cost of a few steps each
SCENES = 2  # prompts of those pictures


def sample_subjects(context: Context) -> list[str]:
    """The sample subjects by name, sorted."""
    return sorted(p.name for p in context.samples.iterdir() if (p / "prompts.toml").is_file())


def sample_folder(context: Context, name: str) -> Path:
    """Raises: RequestError if there is no such sample subject."""
    known = sample_subjects(context)
    if name not in known:
        raise RequestError(f'There is no sample subject "{name}".', fix=f"choose one of {', '.join(known)}")
    return context.samples / name


def sample_noun(context: Context, name: str) -> str:
    return read_prompts(sample_folder(context, name) / "prompts.toml").class_noun or ""


def plain_name(words: str) -> str:
    """Words as a folder name: "my dog & I" -> "my-dog-I"; "" if nothing is left."""
    return re.sub(r"[^\w.-]+", "-", words.strip()).strip("-.")[:80].encode()[:NAME_BYTES].decode(errors="ignore")


def start(
    context: Context,
    runs: Runs,
    *,
    photos: Sequence[Path] = (),
    captions: Mapping[str, str] | None = None,
    sample: str | None = None,
    name: str = "",
    class_noun: str,
    trigger: str = "sks",
    base: str = EMBEDDED,
    method: str = "singlora",
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> str:
    """Queue a run on uploaded `photos` (with captions by path) or on a sample subject; returns its name.

    `settings` are any others by their flat names; None is the preset's or the default. The run starts when no other
    is at work.
    Raises: Problems with all that is wrong; RequestError, WorkError (a full disk). Nothing is left behind then.
    """
    problems = []
    if not photos and not sample:
        problems.append(Problem("photos", "are needed: drop 3 to 6 of one subject, or choose a sample subject"))
    if photos and sample:
        problems.append(Problem("photos", "and a sample subject do not go together: take one of them"))
    if not (class_noun or "").strip():
        problems.append(Problem("class_noun", 'is needed: what the subject is, such as "dog"'))
    if not (trigger or "").strip():
        problems.append(Problem("trigger", 'is needed: the word that will stand for the subject, such as "sks"'))
    if method not in METHODS:
        problems.append(Problem("method", f"is one of {', '.join(METHODS)}"))
    if preset is not None and preset not in PRESETS:
        problems.append(Problem("preset", f"is one of {', '.join(PRESETS)}"))
    given = {name: value for name, value in (settings or {}).items() if value is not None and value != ""}
    # Where it trains, what it starts from and which files it reads are not for a browser to say.
    closed = {"output", "overwrite", "images", "class_images", "cache_dir", "start_from", "dino", "clip", "wandb"}
    own = {"base", "class_noun", "trigger", "method"}  # beside the settings, where they are checked
    for key in sorted(given.keys() - (fields().keys() - closed - own)):
        told = "has an argument of its own" if key in own else "is no setting that can be given here"
        problems.append(Problem(key, told))
    for key, value in given.items():
        if isinstance(value, int | float) and abs(value) >= 2**63:  # no answer of the app could hold it
            problems.append(Problem(key, "is too large a number"))
    if problems:
        raise Problems("the form", problems)

    base = checked_base(context, base)
    flags = {
        "class_noun": class_noun.strip(),
        "trigger": trigger.strip(),
        "base": base,
        "method": method,
        "sample_every": SAMPLE_EVERY,
        "sample_prompts": scenes(base),
        **given,
    }
    name = plain_name(name) or plain_name(f"{sample or class_noun}-{method.replace('+', 'plus')}") or "run"
    if sample:
        return runs.add(name, {**flags, "images": sample_folder(context, sample)}, preset, None)

    report = check(photos, side_of(context, base), sprite=base == EMBEDDED)
    if report.refused:
        raise RequestError(" ".join(report.refused), fix="remove these files, then start again")
    texts = [(captions or {}).get(str(photo.path), "") for photo in report.photos]
    return runs.add(name, flags, preset, lambda folder: copy_photos([p.path for p in report.photos], texts, folder))


def captions_by_photo(photos: Sequence[Path], rows: Sequence[Sequence[str]]) -> dict[str, str]:
    """The captions of the page's table, by the photo's path; "" where the table says nothing.

    The table's menu can move, add and delete rows and columns, so a row belongs to the photo that it names; of photos
    of one name, the first row to the first.
    """
    left = [(str(row[0]), str(row[1] or "")) for row in rows if len(row) > 1]
    found = {}
    for photo in photos:
        row = next((row for row in left if row[0] == photo.name), None)
        if row is not None:
            left.remove(row)
        found[str(photo)] = row[1] if row else ""
    return found


def scenes(base: str) -> list[str]:
    """The prompts of the pictures on the way."""
    known = SPRITE_SCENES if base == EMBEDDED else PHOTO_SCENES
    return [prompt.text for prompt in known.prompts[:SCENES]]


def base_choices() -> list[str]:
    return list(KNOWN)
