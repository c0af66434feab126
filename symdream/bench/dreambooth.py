"""The layout and the prompts of DreamBooth's public data set (arXiv:2208.12242): prompts_and_classes.txt.

The file lists `name,class` for each subject, then 25 prompts for objects and 25 for live subjects, written as
Python strings with {0} for the rare token and {1} for the class.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from symdream.data.images import find_images
from symdream.errors import RequestError

PROMPTS_FILE = "prompts_and_classes.txt"
LIVE = ("cat", "dog")  # the live subjects' classes; all others are objects
CLASS_LINE = re.compile(r"^([\w-]+),([\w -]+)$", re.MULTILINE)
PROMPT_LINE = re.compile(r"'([^']*\{0\} \{1\}[^']*)'\.format")


@dataclass(frozen=True)
class Protocol:
    """`classes` by subject, and the two lists of prompts with {subject} in them."""

    classes: dict[str, str]
    objects: list[str]
    live: list[str]

    def prompts_for(self, noun: str) -> list[str]:
        return self.live if noun in LIVE else self.objects


def is_data_set(folder: Path) -> bool:
    """Whether `folder` is laid out as the public DreamBooth data set."""
    return (folder / PROMPTS_FILE).is_file()


def read_protocol(folder: Path) -> Protocol:
    """The protocol in `folder`, with the subjects that have photos there.

    Raises: RequestError if the file tells no classes or no two lists of prompts, or no subject's photos are there.
    """
    file = Path(folder) / PROMPTS_FILE
    text = file.read_text(encoding="utf-8")
    head, *lists = re.split(r"prompt_list\s*=", text)
    classes = {name: noun.strip() for name, noun in CLASS_LINE.findall(head) if name != "subject_name"}
    prompts = [[line.replace("{0} {1}", "{subject}") for line in PROMPT_LINE.findall(part)] for part in lists]
    if not classes or len(prompts) != 2 or not all(prompts):
        raise RequestError(
            f"{file} is not the data set's: {len(classes)} classes and {len(prompts)} lists of prompts in it.",
            fix="take the file as it is published: name,class lines, then the object and the live prompts",
        )
    here = {name: noun for name, noun in classes.items() if (folder / name).is_dir() and find_images(folder / name)}
    if not here:
        raise RequestError(f"{folder} holds none of the {len(classes)} subjects that {PROMPTS_FILE} names.")
    return Protocol(here, *prompts)
