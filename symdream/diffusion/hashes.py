"""What a base's weights hash to, and its parts with their settings.

One file: the sha256 of its content. Several: the sha256 of the lines "RELATIVE/PATH SHA256\\n", sorted by path,
so that a download and a copy of it hash alike. Only the weight files that are loaded count, not their configs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HEX64 = re.compile(r"[0-9a-f]{64}")
# In a config, but no setting: what wrote it, and the number format of the files.
ABOUT = ("transformers_version", "dtype", "torch_dtype")


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


def settings_of(part: Any) -> dict[str, Any]:
    """The config of a model of diffusers or transformers as it is in use, without what only tells of its files."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    return {key: value for key, value in config.items() if not key.startswith("_") and key not in ABOUT}


def json_hash(content: Any) -> str:
    """sha256 (hex) of plain JSON types, written with sorted keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
