"""Whether a file or folder can be made somewhere, asked before the work whose fruit it shall hold."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from symdream.errors import Problem


def not_writable(path: Path, option: str = "--output", *, whole: bool = False, folder: bool = False) -> Problem | None:
    """Why neither file nor folder `path` can be written, or None if it can.

    whole: a folder that is there is replaced as such, by write_folder, and not written into: the one above is asked.
    folder: a file that is there is in the way.

    Tried and not guessed (permissions, read-only disks, files where folders should be): an empty folder is made, for
    a moment, in `path` where that is a folder to write into, else in the nearest one above it that exists; there under
    a name as long as the one that `path` is first written under. A link is followed, as it is when it is written
    through.
    """
    place = Path(os.path.realpath(path))
    if folder and os.path.lexists(place) and not os.path.isdir(place):
        return Problem(f"{option} {path}", "is a file, and should be a folder")
    prefix = ".symdream-"
    if whole or not os.path.isdir(place):  # and not Path.is_dir, which raises where a folder may not be entered
        prefix = f".{place.name}."
        place = next((parent for parent in place.parents if os.path.lexists(parent)), place)
    try:
        os.rmdir(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=place))
    except NotADirectoryError:
        return Problem(f"{option} {path}", f"cannot be made: {place} is a file")
    except OSError as error:
        return Problem(f"{option} {path}", f"cannot be written: {place}: {error.strerror or error}")
    return None
