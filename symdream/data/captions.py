"""What each photo shows, in words: the caption template, or a .txt beside the photo."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path

from symdream.data.images import find_images
from symdream.errors import RequestError

PLACEHOLDER = "{subject}"
BRACED_WORD = re.compile(r"\{\s*\w+\s*\}")
ENDINGS = ["." + "".join(letters) for letters in itertools.product("tT", "xX", "tT")]
TAG_VARIANTS = 32  # thinned versions of one caption: bounded, so that their embeddings can be cached


def fill(template: str, *, trigger: str, class_noun: str) -> str:
    """Put "trigger class_noun" in place of {subject}: "a photo of {subject}" -> "a photo of sks dog"."""
    return template.replace(PLACEHOLDER, f"{trigger} {class_noun}".strip())


def prompt_problem(prompt: str) -> str | None:
    """What is wrong with a prompt, or None: another word in braces than {subject}, which would be drawn with them.

    Braces around anything but one word are text.
    """
    unknown = [word for word in BRACED_WORD.findall(prompt) if word != PLACEHOLDER]
    return f"{unknown[0]} stands for nothing; did you mean {PLACEHOLDER}?" if unknown else None


def class_prompt_problem(prompt: str) -> str | None:
    """What is wrong with the caption of class images, or None: in it even {subject} stands for nothing."""
    if found := BRACED_WORD.search(prompt):
        return f"is of the class alone: write its noun instead of {found[0]}"
    return None


def template_problem(template: str) -> str | None:
    """What is wrong with a caption template, or None."""
    if problem := prompt_problem(template):
        return problem
    if PLACEHOLDER not in template:
        return f"must contain {PLACEHOLDER}, which becomes trigger and class noun"
    return None


def caption_file(photo: Path) -> Path | None:
    """NAME.txt of NAME.*, its ending in any case as those of photos are, or None.

    Raises: RequestError if there are two.
    """
    files = {}
    for ending in ENDINGS:  # not by listing the folder, which for each of many photos would take long
        path = photo.with_name(photo.stem + ending)
        if path.is_file():
            files.setdefault(path.stat().st_ino, path)  # one file under all of them where the disk knows no case
    found = sorted(files.values())
    if len(found) > 1:
        raise RequestError(f"{photo} has {len(found)} captions: {', '.join(p.name for p in found)}.", fix="keep one")
    return found[0] if found else None


def lonely_captions(folder: Path) -> list[Path]:
    """Files of `folder` that look like captions and are none: a .txt without a photo of its name (NAME.png.txt), and
    NAME.caption, as other trainers call it."""
    photos = {photo.stem for photo in find_images(folder)}
    lonely = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".caption" or (path.suffix.lower() == ".txt" and path.stem not in photos)
    ]
    return sorted(path for path in lonely if path.is_file() and not path.name.startswith("."))


def caption_of(photo: Path, template: str, *, trigger: str, class_noun: str) -> str:
    """The text of `photo`'s .txt ({subject} filled in), else the filled template.

    Raises: RequestError if the .txt is empty, is no text, or has another word in braces than {subject}, or there are
    two.
    """
    beside = caption_file(photo)
    if beside is None:
        return fill(template, trigger=trigger, class_noun=class_noun)
    try:
        text = " ".join(beside.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise RequestError(f"{beside} is not UTF-8 text: {error}.", fix="save it as plain text") from None
    if not text:
        raise RequestError(f"{beside} is empty.", fix=f"write the caption of {photo.name} into it, or remove it")
    if problem := prompt_problem(text):
        raise RequestError(f"{beside}: {problem}", fix="write the words themselves")
    return fill(text, trigger=trigger, class_noun=class_noun)


def says(text: str, words: str) -> bool:
    """Whether `words` stand in `text` as words of their own, in any case: CLIP's tokenizers know none."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def shared_triggers(triggers: Iterable[tuple[str, str]]) -> list[str]:
    """What to tell of adapters, (name, trigger) each, that are used together and answer to the same word."""
    names: dict[str, list[str]] = {}
    for name, trigger in triggers:
        if trigger:
            names.setdefault(trigger.lower(), []).append(name)
    return [
        f'{", ".join(sharing[:-1])} and {sharing[-1]} answer to "{trigger}" alike, so a prompt with it calls them all; '
        "a subject has a word of its own if it is trained with another trigger."
        for trigger, sharing in names.items() if len(sharing) > 1
    ]  # fmt: skip


def thinned(caption: str, rate: float, keep: str) -> list[str]:
    """The caption as tag dropout may show it: TAG_VARIANTS draws in which each comma-separated tag is left out with
    probability `rate`, all but those that contain the words `keep` (the trigger) and the first where none does.

    A caption of one tag has itself as its only variant. A pure function of its arguments: runs of other seeds draw from
    the same variants, so that they share embeddings, and a validation loss that can be compared.
    """
    from symdream.data import draws  # not above: the command line reads captions without torch

    tags = [tag.strip() for tag in caption.split(",") if tag.strip()]
    if len(tags) < 2 or not rate:
        return [caption]
    stays = {i for i, tag in enumerate(tags) if says(tag, keep)} or {0}
    variants = []
    for variant in range(TAG_VARIANTS):
        shown = [
            tag
            for i, tag in enumerate(tags)
            if i in stays or draws.uniform(0, variant, f"tag {i} of {caption}") >= rate
        ]
        variants.append(", ".join(shown))
    return variants
