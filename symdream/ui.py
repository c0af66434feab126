"""What a person sees in the terminal: messages on stderr, results on stdout."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# What moves the cursor, colours, clears, rings or turns the direction of writing; no letter or emoji is among them.
CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

_log: Path | None = None
_quiet = False


@contextmanager
def only_in_the_log() -> Iterator[None]:
    """Meanwhile messages go to the log alone: those of one run among many are not for the terminal."""
    global _quiet
    before, _quiet = _quiet, True
    try:
        yield
    finally:
        _quiet = before


def is_quiet() -> bool:
    return _quiet


def log_to(path: Path | None) -> None:
    """From now on, append every message to this file too (None: no longer)."""
    global _log
    _log = path


def results_console():
    """A rich console on stdout, for tables. Raises: BrokenPipeError when nobody reads it, as print does."""
    from rich.console import Console

    class Results(Console):
        def on_broken_pipe(self) -> None:
            raise  # noqa: PLE0704  (rich calls this where it has caught the error, and would end the process)

    return Results()


def printable(text: str) -> str:
    """`text` on one line, for what a file from anywhere says: a control character is shown (\\x1b), not sent."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def say(text: str = "") -> None:
    """Print a message for the person at the terminal (stderr, so that results can be piped).

    Line breaks pass, so a caller makes what a file says `printable` itself; other control characters are shown.
    """
    text = "\n".join(map(printable, text.split("\n")))
    if not _quiet:
        # Nobody may read it any more (a closed terminal, `2>&1 | head`): no reason to end hours of work.
        with suppress(OSError):
            print(text, file=sys.stderr, flush=True)
    if _log is not None:
        try:
            with _log.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(text + "\n")
        except OSError as error:
            # What is said on a full disk is said because it is full: the terminal still has it.
            note = f"note: {_log} cannot be written ({error.strerror})."
            log_to(None)
            say(note)
