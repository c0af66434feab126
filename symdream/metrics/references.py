"""The photos that scores are against, and whether they are those that a run was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from symdream.config import TrainConfig
from symdream.data.images import read_folder
from symdream.data.photos import read_photos
from symdream.diffusion.hashes import file_sha256
from symdream.errors import Problem, Problems, RequestError
from symdream.files import read_json
from symdream.training.run_folder import RunFolder
from symdream.ui import say


@dataclass(frozen=True)
class References:
    """The photos of one subject; `sha256` of each file by its name, in the order of `images`."""

    images: list[Image.Image]
    sha256: dict[str, str]


def read_references(folder: Path) -> References:
    """Raises: RequestError if there are none, Problems if some cannot be read."""
    found = read_folder(folder)
    if found.problems:
        raise Problems(str(folder), [Problem("photos", p) for p in found.problems])
    return References(list(found.images.values()), {path.name: file_sha256(path) for path in found.images})


def warn_if_changed(run: RunFolder, config: TrainConfig, references: Sequence[References]) -> None:
    """Say so where the photos that lie in the folders now are not those that the run was trained on.

    config: the run's own, `references` those of each of its subjects.
    """
    env = read_json(run.env)
    trained = env.get("photo_files")
    if trained is None or len(trained) != len(references):
        if env.get("photos") and not _same_hash(config, env["photos"]):  # of a former version, which hashed all as one
            say(f"note: photos, masks or captions changed since {run.path} was trained; it is scored on those of now.")
        return
    for subject, before, now in zip(config.learned, trained, references, strict=True):
        changes = {
            "new": [name for name, sha256 in now.sha256.items() if sha256 not in before.values()],
            "gone": [name for name, sha256 in before.items() if sha256 not in now.sha256.values()],
        }
        if any(changes.values()):
            told = "; ".join(f"{what}: {', '.join(names)}" for what, names in changes.items() if names)
            say(
                f"note: the photos in {subject.images} are not those that {run.path} was trained on ({told}); "
                "it is scored on those of now."
            )


def tell_copies(scores: dict[str, Any], names: Sequence[str]) -> None:
    """Name the photos that are copies of each other, by the result of `score_images` and the names of its photos."""
    if pairs := scores["memorisation"]["copies"]:
        told = ", ".join(f"{names[i]} and {names[j]}" for i, j in pairs[:3]) + (", …" if len(pairs) > 3 else "")
        say(f"note: nearly the same photos: {told}; such pairs do not count in memorisation's threshold.")


def _same_hash(config: TrainConfig, before: str) -> bool:
    try:
        return read_photos(config).hash == before
    except RequestError:  # a caption or mask that cannot be read any more
        return False
