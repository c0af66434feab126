"""The library's messages as a page says them: it has no command line, and where its folders lie is its own affair."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from symdream.errors import Problem, Problems, SymdreamError

FIX = "\n  fix:   "  # before the last part of an error (symdream.errors)
NAMES = {"base": "the base", "lr": "learning rate", "to": "the format"}  # of flags that a page calls otherwise
COMMAND = re.compile(r"\b(symdream|accelerate launch|torchrun|pip install) .*")


def message(text: str) -> str:
    """A whole error, with what to do in a page's words."""
    what, fix, rest = text.partition(FIX)
    return what + fix + without_flags(rest)


def brief(error: SymdreamError, folder: Path) -> str:
    """What is wrong and what to do, in one line of a page's words, without where `folder` lies."""
    told = error.what + (f" ({without_flags(error.fix)})" if error.fix else "")
    return without_place(" ".join(told.split()), folder)


def labelled(error: Problems, labels: Mapping[str, str]) -> Problems:
    """The problems of a form by what stands beside its boxes; `labels` by key, and a key without one stays."""
    told = []
    for problem in error.problems:
        key, *value = problem.key.split(" = ", 1)
        told.append(Problem(" = ".join([labels.get(key, key), *value]), problem.message))
    return Problems("the form", told)


def without_flags(text: str) -> str:
    """What to do, without the flags of the command line: "batch size 2" for "--batch-size 2"."""
    text = text.replace("name the base it was trained on with --base", "choose the base that it was trained on")
    return "\n".join(map(_line_without_flags, text.split("\n")))


def _line_without_flags(line: str) -> str:
    """What is a command for a terminal, to the end of its line, stays as it is to be typed."""
    command = COMMAND.search(line)
    words = line[: command.start()] if command else line
    words = re.sub(r"(?<![\w/.-])--([a-z][a-z-]*)", lambda flag: NAMES.get(flag[1], flag[1].replace("-", " ")), words)
    return words + (command[0] if command else "")


def without_place(text: str, folder: Path) -> str:
    """Where on this machine the runs folder lies is nobody's business in a browser.

    Only a path that begins with it is shortened: a folder such as /data may be a part of others, and of addresses.
    """
    place = str(folder).rstrip("/")
    return re.sub(rf"(?<![\w./~-]){re.escape(place)}/", "", text) if place else text
