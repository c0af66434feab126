"""Text of a user, such as the name of a file, where it could be taken for something else, or for somebody else's."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any

# What at the start of a line alone means an item of a list, a rule, or that the line above is a heading.
MARKER = re.compile(r"^(\d*)([-+=.)])")


def no_markdown(text: Any) -> str:
    """`text` on one line, as Markdown shows it: no character of it has a meaning."""
    plain = "".join("\\" + c if c in r"\`*_{}[]<>#|~$&" else c for c in " ".join(str(text).split()))
    return MARKER.sub(r"\1\\\2", plain)


def numbered(names: Sequence[str], taken: Collection[str] = ()) -> list[str]:
    """`names` without two that are the same, or the same as one that is `taken`: a, a becomes a (1), a (2), and
    a (2), a (3) where a is taken."""
    used, unique = {*names, *taken}, []
    for name in names:
        if name in taken or names.count(name) > 1:
            tries = (f"{name} ({number})" for number in count(2 if name in taken else 1))
            name = next(new for new in tries if new not in used)
            used.add(name)
        unique.append(name)
    return unique
