"""What went wrong, where, what to do: the only errors that users are meant to see.

The exit code belongs to the error, so that every command ends alike:
0 done, 1 the work failed, 2 the request was wrong, 130 stopped with its state saved.
"""

from __future__ import annotations

import copyreg
import errno
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


def typed(path: Path | str) -> str:
    """A path as it is typed in a shell, for commands in messages: one with spaces is quoted."""
    return shlex.quote(str(path))


class SymdreamError(Exception):
    """An error with a message for the user: `what` happened, `where`, and how to `fix` it."""

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None):
        self.what, self.where, self.fix = what, where, fix
        super().__init__(what, where, fix)

    def __reduce__(self) -> tuple:
        # Exception's own calls the class with `args`, which here are no arguments of __init__: a worker process could
        # send the error, and nobody read it.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


def is_out_of_memory(error: BaseException) -> bool:
    """True for PyTorch's errors on GPU and CPU, for Python's own and the system's. Needs no torch."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    words = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


class RequestError(SymdreamError):
    """The request was wrong; nothing was started."""

    exit_code = 2


class WorkError(SymdreamError):
    """The request was fine, the work failed."""

    exit_code = 1


class Stopped(SymdreamError):
    """Asked to stop; the state is saved and the run can be resumed."""

    exit_code = 130


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its key as the user wrote it, and what is wrong with it."""

    key: str
    message: str


class Problems(RequestError):
    """All that is wrong with a request, told together before any work starts."""

    def __init__(self, where: str, problems: list[Problem]):
        self.problems = problems
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        width = max(len(p.key) for p in problems)
        listing = "\n".join(f"  {p.key:<{width}}  {p.message}" for p in problems)
        super().__init__(f"{count} in {where}; nothing was started.\n{listing}")


def problems_of(error: RequestError, key: str) -> list[Problem]:
    """What an error says, to be told with other problems: those it lists, or itself as that of the setting `key`."""
    if isinstance(error, Problems):
        return error.problems
    return [Problem(key, on_one_line(error))]


def on_one_line(error: SymdreamError) -> str:
    """What went wrong and what to do, without where."""
    return error.what + (f" ({error.fix})" if error.fix else "")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: '; did you mean "fox"?', or nothing where none is near."""
    from difflib import get_close_matches

    close = get_close_matches(str(name), list(known), 1)
    return f'; did you mean "{close[0]}"?' if close else ""


@contextmanager
def collected(problems: list[Problem], key: str) -> Iterator[None]:
    """While entered, an error of the request is added to `problems` (see problems_of) instead of being raised."""
    try:
        yield
    except RequestError as error:
        problems += problems_of(error, key)
