"""What a base's weights hash to.

One file: the sha256 of its content. Several: the sha256 of the lines "RELATIVE/PATH SHA256\\n", sorted by path,
so that a download and a copy of it hash alike. Only the weight files that are loaded count, not their configs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

HEX64 = re.compile(r"[0-9a-f]{64}")


def file_sha256(path: Path) -> str:
    """The sha256 of a file's content, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def known_sha256(path: Path) -> str | None:
    """The sha256 that the hub's cache names this file's blob by, or None outside such a cache."""
    target = path.resolve()
    is_blob = path.is_symlink() and target.parent.name == "blobs" and HEX64.fullmatch(target.name)
    return target.name if is_blob else None


def weights_hash(root: Path, files: Iterable[Path]) -> str:
    """One sha256 over several weight files below `root`.

    Files in the hub's cache are taken at their blob's name, so that gigabytes are not read at every start;
    `symdream base check` compares those names with the content.
    """
    lines = sorted(f"{path.relative_to(root).as_posix()} {known_sha256(path) or file_sha256(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
