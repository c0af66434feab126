"""What a .safetensors file holds, told from its header alone, and whether the file is whole.

Layout (safetensors' format description): 8 bytes, little endian, the header's length; the header, JSON, with
dtype, shape and data_offsets of each tensor; then the tensors' bytes.
"""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symdream.diffusion.names import pickle_refused
from symdream.errors import RequestError
from symdream.ui import printable

LARGEST_HEADER = 100_000_000  # the format's own limit
BASE_AGAIN = "download or copy it again (`symdream base get NAME` resumes a hub download)"
ZIP_START, NPY_START = b"PK\x03\x04", b"\x93NUMPY"
PICKLE_STARTS = (ZIP_START, b"\x80\x02", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True)
class Tensor:
    """One entry of the header: number format, shape, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """The tensors by name, and the file's own text metadata."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}


def read_header(path: Path, *, again: str = BASE_AGAIN) -> Header:
    """Read and check a safetensors header without touching the tensors; `again` tells how to get a whole file.

    Raises: RequestError if the file is a pickle or NumPy's under another name, no safetensors file, truncated, or names
    a tensor twice.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        start = stream.read(8)
        length = int.from_bytes(start, "little")
        # A header of 1408 bytes begins a sound file with 80 05: what follows tells it from a pickle.
        if start.startswith(PICKLE_STARTS) and not (length <= LARGEST_HEADER and stream.read(1) == b"{"):
            raise _numpy_refused(path) if start.startswith(ZIP_START) and _is_npz(path) else pickle_refused(path)
        if start.startswith(NPY_START):
            raise _numpy_refused(path)
        stream.seek(8)
        if size < 8 or length > LARGEST_HEADER or length < 2:
            raise RequestError(f"{path.name} is not a safetensors file.", where=str(path))
        text = stream.read(length)
    if len(text) < length:
        raise _truncated(path, size, 8 + length, again)
    try:
        entries = json.loads(text, object_pairs_hook=lambda pairs: _once(pairs, path))
        metadata = _metadata(entries.pop("__metadata__", None))
        tensors = {_shown(name): _tensor(entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            f"{path.name} is not a safetensors file: its header cannot be read.", where=str(path)
        ) from error
    needed = max((tensor.end for tensor in tensors.values()), default=8 + length)
    if size < needed:
        raise _truncated(path, size, needed, again)
    return Header(tensors, metadata)


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{path.name} names {twice} twice, so it is unclear which one counts.", where=str(path))
    return result


def _metadata(entry: Any) -> dict[str, str]:
    """The texts of `__metadata__`, which may be null. Raises: ValueError if it is something else than texts by name."""
    if entry is None:
        return {}
    if not isinstance(entry, dict) or not all(isinstance(text, str) for text in entry.values()):
        raise ValueError("metadata that are no texts")
    return entry


def _tensor(entry: Any, data: int) -> Tensor:
    """An entry of the header, whose offsets count from the byte `data`.

    Raises: KeyError, TypeError or ValueError if it is none.
    """
    dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    # Not isinstance(…, int): JSON's true would be one.
    whole = isinstance(shape, list) and all(type(number) is int and number >= 0 for number in (*shape, start, end))
    if not isinstance(dtype, str) or not whole or end < start:
        raise ValueError("no entry of a tensor")
    return Tensor(_shown(dtype), tuple(shape), data + start, data + end)


def _shown(name: str) -> str:
    """A name as messages have it. Raises: ValueError if it would move a terminal's cursor."""
    if printable(name) != name:
        raise ValueError("a name of control characters")
    return name


def _is_npz(path: Path) -> bool:
    """Whether this ZIP archive holds NumPy's arrays alone; PyTorch's pickles lie in such archives, too.

    One that cannot be listed does not: zipfile tells that it is cut, that a name is no UTF-8 (a ValueError), and that
    it is of a later version of the format, each in its own way.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False
    return bool(names) and all(name.endswith(".npy") for name in names)


def _numpy_refused(path: Path) -> RequestError:
    return RequestError(
        f"{path.name} holds NumPy arrays; it is not a safetensors file.",
        where=str(path),
        fix="use the .safetensors edition, or save the arrays with safetensors.numpy.save_file",
    )


def _truncated(path: Path, size: int, needed: int, again: str) -> RequestError:
    return RequestError(
        f"{path.name} is truncated: {size:,} bytes of at least {needed:,} are there.",
        where=str(path),
        fix=again,
    )
