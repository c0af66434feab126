"""Score a folder of images that somebody made, against a folder of the subject's photos."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.data.images import read_folder
from symdream.diffusion.png import read_settings
from symdream.errors import Problem, Problems, RequestError, problems_of
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import SPRITE, load_encoders
from symdream.metrics.evaluate import score_images
from symdream.metrics.prompts import assign_prompts, read_prompts
from symdream.metrics.references import tell_copies
from symdream.metrics.suitability import warn_if_unsuitable
from symdream.ui import say

TRIGGER = "sks"  # training's default


@dataclass(frozen=True)
class Generated:
    """The images of a folder in sorted order, with what each one's metadata tells ({} where there is none)."""

    images: dict[Path, Image.Image]
    settings: list[dict[str, Any]]


def score_folder(
    images: Path,
    reference: Path,
    *,
    prompts: Path | None = None,
    trigger: str | None = None,
    dino: str | None = None,
    clip: str | None = None,
    device: str = "cpu",
    cache: EmbeddingCache | None = None,
) -> dict[str, Any]:
    """`score_images` of a folder, with file names; each image's prompt comes from `prompts` or its metadata.

    dino, clip: encoder names (None: sprite's, or those for photographs if the metadata names another base).
    trigger: the rare token left out of CLIP-T's texts (None: sks).
    Raises: Problems telling all that is wrong with the folders and the prompts file, RequestError.
    """
    problems: list[Problem] = []
    generated = _gather(problems, "--images", lambda: read_generated(images))
    photos = _gather(problems, "--reference", lambda: _read_all(reference))
    given = _gather(problems, "--prompts", lambda: read_prompts(prompts)) if prompts else None
    if problems:
        raise Problems("the request", problems)
    trigger = TRIGGER if trigger is None else trigger
    carried = {
        path.name: settings.get("prompt") for path, settings in zip(generated.images, generated.settings, strict=True)
    }
    texts = assign_prompts(carried, given, trigger=trigger)
    embedded = all(settings.get("base", SPRITE) == SPRITE for settings in generated.settings)
    dino_encoder, clip_encoder = load_encoders(embedded, dino, clip, device=device)
    references = list(photos.values())
    warn_if_unsuitable(references, dino_encoder, clip_encoder)
    if cut := clip_encoder.too_long(sorted(set(texts))):
        say(f'note: {len(cut)} prompts are longer than CLIP reads (77 tokens) and were cut: "{cut[0][:60]}…"')
    result = score_images(
        list(generated.images.values()),
        texts,
        references,
        dino=dino_encoder,
        clip=clip_encoder,
        trigger=trigger,
        cache=cache,
    )
    for path, entry in zip(generated.images, result["images"], strict=True):
        entry["file"] = path.name
        entry["nearest_reference"] = list(photos)[entry["nearest_reference"]].name
    names = [path.name for path in photos]
    tell_copies(result, names)
    return {**result, "references": names}


def read_generated(folder: Path) -> Generated:
    """Read a folder of made images; the overview grid.png that symdream generate leaves in it is none of them.

    Raises: RequestError if there are no images, Problems naming each that cannot be read.
    """
    images = _read_all(folder)
    settings = {path: _settings(path) for path in images}
    overview = [p for p in images if p.name == "grid.png" and not settings[p] and any(settings.values())]
    for path in overview:
        say(f"note: {path} is an overview, not one of the images; left out.")
        del images[path]
    return Generated(images, [settings[path] for path in images])


def _read_all(folder: Path) -> dict[Path, Image.Image]:
    found = read_folder(folder)
    if found.problems:
        raise Problems(str(folder), [Problem("", problem) for problem in found.problems])
    return found.images


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = read_settings(path)
    except ValueError:  # a chunk of our name that holds something else
        return {}
    return settings if isinstance(settings, dict) else {}


def _gather(problems: list[Problem], flag: str, work) -> Any:
    """The result of `work`, or None and its complaints under `flag`: all of a request's problems are told at once."""
    try:
        return work()
    except Problems as error:
        problems += [Problem(f"{flag} {p.key}".strip(), p.message) for p in error.problems]
    except RequestError as error:
        problems += problems_of(error, flag)
    return None
