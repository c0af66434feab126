"""Text of a user, such as the name of a file, where it could be taken for something else."""

from __future__ import annotations

import re
from typing import Any

# What at the start of a line alone means an item of a list, a rule, or that the line above is a heading.
MARKER = re.compile(r"^(\d*)([-+=.)])")


def no_markdown(text: Any) -> str:
    """`text` on one line, as Markdown shows it: no character of it has a meaning."""
    plain = "".join("\\" + c if c in r"\`*_{}[]<>#|~$&" else c for c in " ".join(str(text).split()))
    return MARKER.sub(r"\1\\\2", plain)
