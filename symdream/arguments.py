"""How tyro shows and reads arguments that may be left out: `--rank INT`, not `--rank {None}|INT`."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

KINDS: dict[type, tuple[str, str]] = {
    int: ("INT", "a whole number"),
    float: ("FLOAT", "a number"),
    str: ("STR", "a text"),
    Path: ("PATH", "a path"),
}


def optional_arguments():
    """A tyro registry, for `with`: of `T | None` only T can be typed, since not giving the flag means None.

    T is int, float, str, Path or a Literal of strings. What cannot be read is told in a sentence.
    """
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def optional(info) -> PrimitiveConstructorSpec | None:
        inner = [kind for kind in get_args(info.type) if kind is not type(None)]
        if info.type_origin not in (Union, types.UnionType) or len(inner) != 1:
            return None
        (kind,) = inner
        choices = get_args(kind) if get_origin(kind) is Literal else None
        if kind not in KINDS and not choices:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="{" + ",".join(choices) + "}" if choices else KINDS[kind][0],
            instance_from_str=(lambda words: words[0]) if choices else reader(kind),
            # None is what the flag has when it is not given, so a default of None fits too.
            is_instance=lambda value: value is None or (value in choices if choices else isinstance(value, kind)),
            str_from_instance=lambda value: [str(value)],
            choices=choices,
        )

    return registry


def reader(kind: type) -> Callable[[list[str]], Any]:
    def read(words: list[str]) -> Any:
        try:
            return kind(words[0])
        except ValueError:
            raise ValueError(f"{words[0]} is not {KINDS[kind][1]}.") from None

    return read
