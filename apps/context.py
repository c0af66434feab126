"""Where one app keeps its files, and the check that every path from a browser passes."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from symdream.errors import RequestError

HOME = ".app"  # hidden in the runs folder: no run has such a name


def nameable(path: str) -> bool:
    """Whether a file system takes `path` at all: to look for another one is an error of its own."""
    try:
        parts = os.fsencode(path).split(b"/")
    except UnicodeEncodeError:  # half a character
        return False
    return "\0" not in path and max(map(len, parts)) <= 255 and sum(map(len, parts)) + len(parts) < 2048


@dataclass
class Context:
    """The folders of one app. Only what lies in `runs`, `uploads` and `samples` may be read or handed out.

    runs     run folders (and adapter files) as `symdream train` writes them
    uploads  what browsers sent, and gradio's cache of what it serves; emptied when old: copy what shall last
    samples  the sample subjects, read only
    images   pictures that were made, a folder for each browser or user
    trash    what was deleted in the app, still there to be taken back
    """

    runs: Path
    uploads: Path
    samples: Path
    images: Path
    trash: Path
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("symdream.app"))

    @classmethod
    def at(cls, runs: Path, samples: Path | None = None) -> Context:
        """The context whose runs folder is `runs` (made if it is not there); everything else lies in it.

        Raises: RequestError if the folders cannot be made.
        """
        from symdream.data.samples import sample_data

        runs = Path(os.path.expanduser(runs)).resolve()
        home = runs / HOME
        context = cls(
            runs=runs,
            uploads=home / "uploads",
            samples=(samples or sample_data()).resolve(),
            images=home / "images",
            trash=home / "trash",
        )
        try:
            for folder in (context.uploads, context.images, context.trash):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RequestError(
                f"The folder for runs cannot be made: {error.strerror}.", where=str(runs), fix="choose another --runs"
            ) from None
        return context

    @property
    def roots(self) -> tuple[Path, ...]:
        """The folders that paths may point into."""
        return (self.runs, self.uploads, self.samples)

    def check_path(self, path: str | os.PathLike[str]) -> Path:
        """`path` resolved, if it is in an allowed folder and no part of it leads out; relative ones start at `runs`.

        Raises: RequestError otherwise, or if nothing is there.
        """
        given = Path(path)
        if not nameable(str(path)):
            raise RequestError(f'"{str(path)[:60]}" cannot be the name of a file.', fix="choose one of the list")
        if ".." in given.parts:
            raise RequestError(f'"{path}" is not a path inside the folders of this app.', fix='leave out ".."')
        resolved = (self.runs / given).resolve()
        inside = any(resolved.is_relative_to(root) for root in self.roots)
        # Of the app's own folder only the uploads: in the others lies what belongs to one user.
        own = resolved.is_relative_to(self.runs / HOME) and not resolved.is_relative_to(self.uploads)
        if not inside or own:
            raise RequestError(
                f'"{given.name}" lies outside the folders of this app, so it is not opened.',
                fix=f"put it into the runs folder ({self.runs.name}), or upload it",
            )
        if not resolved.exists():
            raise RequestError(f'There is no "{given}" in the folders of this app.', fix="reload the page")
        return resolved

    def name_of(self, path: Path) -> str:
        """The short name that the pages show for a checked path: relative to the runs folder where it is in it."""
        path = Path(path)
        inside = path.is_relative_to(self.runs) and not path.is_relative_to(self.runs / HOME)
        return path.relative_to(self.runs).as_posix() if inside else path.name
