"""What an adapter file's header tells, read without torch, and the refusal of files that must not be used."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symdream.diffusion.headers import read_header
from symdream.diffusion.names import PICKLES, pickle_refused
from symdream.errors import RequestError

# Bytes of one number
FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
INTEGERS = {"U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}


@dataclass(frozen=True)
class Tensor:
    """One entry of the header: number format, shape, and where its bytes lie in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class AdapterHeader:
    tensors: dict[str, Tensor]
    texts: dict[str, str]

    def json(self, key: str) -> dict[str, Any]:
        """A metadata entry that holds a JSON object; {} if it is missing or no such thing."""
        try:
            value = json.loads(self.texts.get(key, "{}"))
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


def read_adapter_header(path: Path) -> AdapterHeader:
    """Header of an adapter file, checked: whole, no pickle, no name twice, every size as it says.

    Raises: RequestError naming what is wrong. Nothing in the file is run.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise pickle_refused(path)
    if not path.is_file():
        raise RequestError(f"There is no file {path}.")
    known = read_header(path, again="download, copy or export it again")
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entries = json.loads(stream.read(length), object_pairs_hook=lambda pairs: _once(pairs, path))
    data = 8 + length
    tensors = {}
    for name in known.shapes:
        entry = entries[name]
        start, end = entry["data_offsets"]
        tensor = Tensor(entry["dtype"], known.shapes[name], data + start, data + end)
        _check(name, tensor, path)
        tensors[name] = tensor
    return AdapterHeader(tensors, {str(k): str(v) for k, v in known.metadata.items()})


def _once(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RequestError(f"{path.name} names {twice} twice, so it is unclear which one counts.", where=str(path))
    return result


def _check(name: str, tensor: Tensor, path: Path) -> None:
    numbers = 1
    for side in tensor.shape:
        if not isinstance(side, int) or side < 0:
            raise RequestError(f"{path.name} gives {name} the shape {tensor.shape}.", where=str(path))
        numbers *= side
    size = (FLOATS | INTEGERS).get(tensor.dtype)  # of other formats none is ever used (`check_number_format`)
    if size is not None and tensor.end - tensor.start != numbers * size:
        raise RequestError(f"The bytes of {name} do not fit its shape {tensor.shape}.", where=str(path))


def check_number_format(name: str, tensor: Tensor, path: Path, *, whole: bool) -> None:
    """Raises: RequestError if a layer's tensor is of no format that it may have; `whole` allows whole numbers."""
    if tensor.dtype not in (FLOATS | INTEGERS if whole else FLOATS):
        raise RequestError(
            f"{path.name} holds {name} as {tensor.dtype}; an adapter's weights are {', '.join(FLOATS)}.",
            where=str(path),
        )
