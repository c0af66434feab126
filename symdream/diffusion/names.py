"""What `--base NAME` means: which of the five kinds of source a name points to, before anything is loaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from symdream.errors import RequestError, did_you_mean

EMBEDDED = "sprite"
ALIASES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")
HUB_ID = re.compile(r"(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>[\w./-]+))?")


@dataclass(frozen=True)
class Source:
    """Where a base comes from: `kind` is "embedded", "hub", "folder" or "file"."""

    kind: str
    name: str
    path: Path | None = None
    repo: str | None = None
    revision: str | None = None


def resolve_name(name: str) -> Source:
    """Tell what `name` points to; an existing path wins over a hub id of the same spelling.

    Raises: RequestError for a pickle, a path that is not there, or a name of no kind.
    """
    if name == EMBEDDED:
        return Source("embedded", name)
    if name in ALIASES:
        return Source("hub", name, repo=ALIASES[name])
    path = Path(os.path.expanduser(name))  # pathlib's raises for a user that is not there
    if path.suffix.lower() in PICKLES:
        raise pickle_refused(path)
    if path.is_dir():
        return Source("folder", name, path=path)
    if path.is_file():
        return Source("file", name, path=path)
    if path.suffix == ".safetensors" or path.is_absolute() or name.startswith(("./", "../", "~")):
        raise RequestError(f"There is no base at {name}.", fix="check the path; nothing was downloaded")
    if match := HUB_ID.fullmatch(name):
        return Source("hub", name, repo=match["repo"], revision=match["revision"])
    raise RequestError(
        f'No base is called "{name}"' + (did_you_mean(name, [EMBEDDED, *ALIASES]) or "."),
        fix=f"use {EMBEDDED}, {', '.join(ALIASES)}, a hub id (owner/name), a diffusers folder or a .safetensors file",
    )


def pickle_refused(path: Path | str) -> RequestError:
    """The refusal of a pickle, with its reason and the way out."""
    return RequestError(
        f"{Path(path).name} is a pickle: loading it can run any program hidden in it, so it is never opened.",
        where=str(path),
        fix="use the .safetensors edition of this model (nearly every author publishes one beside it)",
    )
