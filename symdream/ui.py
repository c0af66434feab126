"""What a person sees in the terminal: messages on stderr, results on stdout."""

from __future__ import annotations

import sys


def say(text: str = "") -> None:
    """Print a message for the person at the terminal (stderr, so that results can be piped)."""
    print(text, file=sys.stderr, flush=True)
