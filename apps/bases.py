"""Which base a name from a page, an endpoint or an adapter's file means."""

from __future__ import annotations

import os
from pathlib import Path

from symdream.diffusion.names import ALIASES, EMBEDDED, HUB_ID, resolve_name
from symdream.diffusion.resolution import known_resolution
from symdream.errors import RequestError
from symdream_apps.context import Context, nameable

USUAL_RESOLUTION = 512  # of bases whose size is not known before they are loaded


def checked_base(context: Context, name: str) -> str:
    """`name` as `load_base` takes it: sprite, an alias or a hub id as it is; a path only if it lies in the folders of
    this app, relative ones in its runs folder.

    Raises: RequestError if it does not, is a pickle, or means nothing.
    """
    name = str(name or "").strip()
    if name == EMBEDDED or name in ALIASES:
        return name
    choices = f"take {EMBEDDED}, or {' or '.join(ALIASES)} for photographs"
    if not name:
        raise RequestError("No base is chosen.", fix=choices)
    if not nameable(name):
        raise RequestError("No base has such a name.", fix=choices)
    path = Path(os.path.expanduser(name))  # pathlib's raises for a user that is not there
    # Where something lies at it in the runs folder or the working one, a name is a path, as for the command.
    if (context.runs / path).exists():
        path = context.runs / path
    elif path.exists():
        path = path.absolute()
    else:
        if HUB_ID.fullmatch(name):
            return name
        if path.name == name:
            resolve_name(name)  # raises: a word that is no base, perhaps one misspelt
    path = context.check_path(path)
    resolve_name(str(path))  # raises: a pickle
    return str(path)


def side_of(context: Context, name: str) -> int:
    """Pixels a side of the pictures of the base that a page calls `name`: USUAL_RESOLUTION where nothing tells it."""
    try:
        side = known_resolution(checked_base(context, name))
    except RequestError:  # told when the base is used
        side = None
    return side or USUAL_RESOLUTION
