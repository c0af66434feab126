"""Text of a user, such as the name of a file, where it could be taken for something else."""

from __future__ import annotations

from typing import Any


def no_markdown(text: Any) -> str:
    """`text` on one line, as Markdown shows it: no character of it has a meaning."""
    return "".join("\\" + c if c in r"\`*_{}[]<>#|~$&" else c for c in " ".join(str(text).split()))
