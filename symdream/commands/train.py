"""Teach a base one subject from a folder of photos.

The training itself, top to bottom, is in symdream/train.py.
"""

from __future__ import annotations

from typing import Any


def parse(argv: list[str]) -> Any:
    from symdream.training import request

    return request.parse(argv, prog="symdream train", description=__doc__)


def run(args: Any) -> int:
    from symdream.training.session import train_from

    train_from(args)
    return 0
