"""Where what is expensive to make is kept (symdream.data.store)."""

from __future__ import annotations

import os
from pathlib import Path

from symdream.errors import RequestError


def cache_folder(chosen: Path | None) -> Path:
    """The folder asked for, else $SYMDREAM_CACHE, else ~/.cache/symdream.

    Raises: RequestError if there is no home folder to take.
    """
    if chosen is not None:
        return Path(chosen)
    if asked := os.environ.get("SYMDREAM_CACHE"):
        return Path(asked)
    try:
        return Path.home() / ".cache" / "symdream"
    except RuntimeError as error:  # a user without an entry in the system's list, and no $HOME
        fix = "name a folder for the cache with --cache-dir, or in SYMDREAM_CACHE"
        raise RequestError("This user has no home folder for the cache.", fix=fix) from error
