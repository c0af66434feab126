"""How small a compressed adapter is to be, as it is written: a rank, or the size of its file."""

from __future__ import annotations

import re

from symdream.errors import Problem, Problems

UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2}


def parse_size(text: str) -> tuple[str, int]:
    """("rank", 4) from "4"; ("bytes", 200000) from "200KB".

    Raises: Problems for anything else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KM]?B)?", text.strip(), re.IGNORECASE)
    if match is None or (match[2] is None and "." in match[1]) or float(match[1]) <= 0:
        wrong = Problem(f"--compress {text}", "is neither a rank nor a size; write 4, or 200KB")
        raise Problems("the request", [wrong])
    if match[2] is None:
        return "rank", int(match[1])
    return "bytes", int(float(match[1]) * UNITS[match[2].upper()])
