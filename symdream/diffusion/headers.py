"""What a .safetensors file holds, told from its header alone, and whether the file is whole.

Layout (safetensors' format description): 8 bytes, little endian, the header's length; the header, JSON, with
dtype, shape and data_offsets of each tensor; then the tensors' bytes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from symdream.diffusion.names import pickle_refused
from symdream.errors import RequestError

LARGEST_HEADER = 100_000_000  # the format's own limit
BASE_AGAIN = "download or copy it again (`symdream base get NAME` resumes a hub download)"
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Header:
    """Tensor shapes by name, and the file's own text metadata."""

    shapes: dict[str, tuple[int, ...]]
    metadata: dict[str, str]


def read_header(path: Path, *, again: str = BASE_AGAIN) -> Header:
    """Read and check a safetensors header without touching the tensors; `again` tells how to get a whole file.

    Raises: RequestError if the file is a pickle under another name, no safetensors file, or truncated.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        # A header of 1408 bytes begins a sound file with 80 05: what follows tells it from a pickle.
        if start.startswith(PICKLE_STARTS) and not (length <= LARGEST_HEADER and stream.read(1) == b"{"):
            raise pickle_refused(path)
        stream.seek(8)
        if size < 8 or length > LARGEST_HEADER or length < 2:
            raise RequestError(f"{path.name} is not a safetensors file.", where=str(path))
        text = stream.read(length)
    if len(text) < length:
        raise _truncated(path, size, 8 + length, again)
    try:
        entries = json.loads(text)
        metadata = entries.pop("__metadata__", {})
        shapes = {name: tuple(entry["shape"]) for name, entry in entries.items()}
        needed = 8 + length + max((entry["data_offsets"][1] for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise RequestError(
            f"{path.name} is not a safetensors file: its header cannot be read.", where=str(path)
        ) from error
    if size < needed:
        raise _truncated(path, size, needed, again)
    return Header(shapes, metadata)


def _truncated(path: Path, size: int, needed: int, again: str) -> RequestError:
    return RequestError(
        f"{path.name} is truncated: {size:,} bytes of at least {needed:,} are there.",
        where=str(path),
        fix=again,
    )
