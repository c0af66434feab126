"""What an adapter file's header tells, read without torch, and the refusal of files that must not be used."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from symdream.diffusion.headers import Tensor, read_header
from symdream.diffusion.names import PICKLES, pickle_refused
from symdream.errors import RequestError

# Bytes of one number
FLOATS = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8}
INTEGERS = {"U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}


@dataclass(frozen=True)
class AdapterHeader:
    tensors: dict[str, Tensor]
    texts: dict[str, str]

    def json(self, key: str) -> dict[str, Any]:
        """A metadata entry that holds a JSON object; {} if it is missing or no such thing."""
        try:
            value = json.loads(self.texts.get(key, "{}"))
        except (ValueError, RecursionError):
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
    for name, tensor in known.tensors.items():
        number = (FLOATS | INTEGERS).get(tensor.dtype)  # of other formats none is ever used (`check_number_format`)
        if number is not None and tensor.end - tensor.start != math.prod(tensor.shape) * number:
            raise RequestError(f"The bytes of {name} do not fit its shape {tensor.shape}.", where=str(path))
    return AdapterHeader(known.tensors, known.metadata)


def check_number_format(name: str, tensor: Tensor, path: Path, *, whole: bool) -> None:
    """Raises: RequestError if a layer's tensor is of no format that it may have; `whole` allows whole numbers."""
    if tensor.dtype not in (FLOATS | INTEGERS if whole else FLOATS):
        raise RequestError(
            f"{path.name} holds {name} as {tensor.dtype}; an adapter's weights are {', '.join(FLOATS)}.",
            where=str(path),
        )
