"""How tyro shows and reads arguments that may be left out or given twice: `--rank INT`, not `--rank {None}|INT`."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from symdream.errors import Problem, Problems

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


def merge_repeated(kind: Any, argv: list[str]) -> list[str]:
    """`argv` with each list flag once: `--prompt A --prompt B` becomes `--prompt A B`, where tyro would keep the
    last alone. So it does with every other flag, as scripts that append their own to a fixed command expect.

    kind: the dataclass that tyro fills, or a union of such.
    Raises: Problems naming every list that cannot be put together.
    """
    kinds, positional = flag_kinds(kind)
    end = argv.index("--") if "--" in argv else len(argv)
    groups: list[list[str]] = [[]]  # each flag with the words after it
    for word in argv[:end]:
        if is_flag(word):
            groups.append([word])
        else:
            groups[-1].append(word)
    places: dict[str, list[int]] = {}
    for place, (word, *_) in enumerate(groups[1:], 1):
        flag = split_flag(word)[0]
        known = next((f for f in (flag, flag.replace("--no-", "--", 1)) if f in kinds), None)
        if known:
            places.setdefault(kinds[known][0], []).append(place)
    problems = []
    for name, at in places.items():
        if len(at) == 1 or not kinds[name][1]:
            continue
        given = [split_flag(groups[place][0])[1] + groups[place][1:] for place in at]
        words = [word for group in given for word in group]
        if positional and any(len(group) > 1 for group in given[:-1]):
            problems.append(Problem(name, "is given twice, the first time perhaps with another argument; give it once"))
        elif dashed := [word for word in words[1:] if is_flag(word)]:
            problems.append(Problem(f"{name}={dashed[0]}", "begins with a dash, as only the first of a list can"))
        for place in at:
            groups[place] = []
        # At the last place, where what follows the flag's words may be a positional argument. A first word that is
        # tied to its flag may begin with a dash.
        groups[at[-1]] = [f"{name}={words[0]}", *words[1:]] if words and is_flag(words[0]) else [name, *words]
    if problems:
        raise Problems("the request", problems)
    return [word for group in groups for word in group] + argv[end:]


def flag_kinds(kind: Any) -> tuple[dict[str, tuple[str, bool]], bool]:
    """{"--seeds": ("--seeds", True), "-o": ("--output", False), …}: each flag's long name, and whether it takes a list;
    and whether there are positional arguments."""
    from tyro.conf import Positional

    kinds, positional = {}, False
    for one in get_args(kind) or (kind,):
        for field, hint in get_type_hints(one, include_extras=True).items():
            aliases: list[str] = []
            if get_origin(hint) is Annotated:
                hint, *extras = get_args(hint)
                aliases = [alias for extra in extras for alias in getattr(extra, "aliases", None) or ()]
                positional |= Positional in extras
            parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
            name = "--" + field.replace("_", "-")
            kinds |= dict.fromkeys([name, *aliases], (name, any(get_origin(part) is list for part in parts)))
    return kinds, positional


def is_flag(word: str) -> bool:
    """Whether tyro takes this word for a flag: `-o`, `--seed`, `--seed=1`, but not `-1e-3` and `-inf`."""
    if not word.startswith("-") or not word.lstrip("-")[:1].isalpha():
        return False
    return word.startswith("--") or word[1:].lower() not in ("inf", "infinity", "nan")


def split_flag(word: str) -> tuple[str, list[str]]:
    """("--batch-size", ["1"]) from "--batch_size=1", ("-o", ["runs"]) from "-oruns", ("-o", []) from "-o"."""
    if not word.startswith("--"):
        return word[:2], [word[2:].removeprefix("=")] if len(word) > 2 else []
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-"), [value] if equals else []
