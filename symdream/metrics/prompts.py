"""The prompts images are scored by: read from a file, taken from the images themselves, or matched to both.

A prompts.toml (see sample_data/) names the class noun and, for each prompt, its text with {subject}, whether it
was held out, and perhaps an ideal picture; [[image]] tables, not read here, may tell how photos were composed.
A plain text file has one prompt a line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from symdream.data.captions import PLACEHOLDER, fill, prompt_problem
from symdream.errors import Problem, Problems, RequestError

FILE_KEYS = {"class_noun": str, "tuning": bool, "image": list, "prompt": list}
MOST_NAMED = 10  # images in one message
PROMPT_KEYS = {"text": str, "held_out": bool, "ideal": str}


@dataclass(frozen=True)
class Prompt:
    """One prompt; `text` may hold {subject}. `ideal` is a picture of the true subject as the prompt asks."""

    text: str
    held_out: bool = True
    ideal: Path | None = None


@dataclass(frozen=True)
class PromptSet:
    """The prompts of one file, in its order; a plain text file has no class noun."""

    prompts: list[Prompt]
    class_noun: str | None = None

    def held_out(self) -> PromptSet:
        """Those that were kept out of tuning; all of them where none is marked so (`nothing_held_out`)."""
        return PromptSet([p for p in self.prompts if p.held_out] or self.prompts, self.class_noun)

    def nothing_held_out(self) -> bool:
        """Whether every prompt is one that choices may be made by."""
        return not any(p.held_out for p in self.prompts)

    def for_selection(self) -> PromptSet | None:
        """Those that choices may be made by, since no report uses them; None where all are held out."""
        prompts = [p for p in self.prompts if not p.held_out]
        return PromptSet(prompts, self.class_noun) if prompts else None


# What a run is asked where no prompts.toml lies beside its photos: scenes that no caption template names.
SPRITE_SCENES = PromptSet(
    [
        Prompt("a 3d render of a {subject} on a striped blue background"),
        Prompt("a glossy icon of a {subject} on a checkered yellow background"),
        Prompt("a flat icon of a {subject} on a green background"),
        Prompt("a cartoon emoji of a {subject} on a dotted pink background"),
        Prompt("a 3d render of a {subject} and a tree on a teal background"),
        Prompt("a simple emoji of a {subject} on a purple background"),
    ]
)
PHOTO_SCENES = PromptSet(
    [
        Prompt("a {subject} in the snow"),
        Prompt("a {subject} on a sandy beach"),
        Prompt("a {subject} on a wooden floor with a city in the background"),
        Prompt("a {subject} in a field of flowers at sunset"),
        Prompt("a watercolour painting of a {subject}"),
        Prompt("a {subject} on top of a purple rug in a forest"),
    ]
)

# What checkpoints and settings are chosen by where there are no prompts for it: other scenes than those above.
SPRITE_SELECTION = PromptSet(
    [
        Prompt("a 3d render of a {subject} on a checkered orange background"),
        Prompt("a glossy icon of a {subject} on a dotted navy background"),
        Prompt("a flat icon of a {subject} on a striped white background"),
        Prompt("a 3d render of a {subject} and a chair on a brown background"),
    ]
)
# None of them is among DreamBooth's own prompts, on which `symdream compare` judges what was tuned on these.
PHOTO_SELECTION = PromptSet(
    [
        Prompt("a {subject} on a railway platform"),
        Prompt("a {subject} in a living room"),
        Prompt("an oil painting of a {subject}"),
        Prompt("a {subject} on a kitchen table with a blue wall in the background"),
    ]
)


def selection_prompts(own: PromptSet | None, embedded: bool) -> PromptSet:
    """What choices are made by: those of a subject's `own` that are not held out; else scenes that its base knows."""
    return (own and own.for_selection()) or (SPRITE_SELECTION if embedded else PHOTO_SELECTION)


def read_prompts(path: Path) -> PromptSet:
    """Read prompts.toml or a plain text file.

    Raises: RequestError if the file cannot be read or is empty, Problems telling all that is wrong in it.
    """
    path = Path(path)
    fix = "name a prompts.toml or a text file"
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"No prompts file {path}.") from None
    except IsADirectoryError:
        raise RequestError(f"{path} is a folder, not a prompts file.", fix=fix) from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not UTF-8 text: {error}.", fix=fix) from None
    if path.suffix.lower() != ".toml":
        lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
        if not lines:
            raise RequestError(f"{path} is empty.", fix="write one prompt a line into it")
        if wrong := [Problem(f'"{line}"', problem) for line in lines if (problem := prompt_problem(line))]:
            raise Problems(str(path), wrong)
        return PromptSet([Prompt(line) for line in lines])
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} is not valid TOML: {error}.") from None
    return _from_toml(content, path)


def _from_toml(content: dict, path: Path) -> PromptSet:
    problems = _wrong_keys(content, FILE_KEYS, "")
    if "class_noun" not in content:
        problems.append(Problem("class_noun", 'is needed: what the subject is, such as class_noun = "bird"'))
    entries = content.get("prompt", [])
    if not entries:
        problems.append(Problem("[[prompt]]", "is needed at least once"))
    prompts = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [], 1):
        wrong = _wrong_keys(entry, PROMPT_KEYS, f"prompt {number}: ") if isinstance(entry, dict) else []
        if not isinstance(entry, dict) or PLACEHOLDER not in str(entry.get("text", "")):
            wrong.append(Problem(f"prompt {number}: text", f"must be there and contain {PLACEHOLDER}"))
        elif problem := prompt_problem(str(entry["text"])):
            wrong.append(Problem(f"prompt {number}: text", problem))
        elif not wrong:
            ideal = path.parent / entry["ideal"] if "ideal" in entry else None
            if ideal is not None and not ideal.is_file():
                wrong.append(Problem(f"prompt {number}: ideal = {entry['ideal']}", "is not there"))
            prompts.append(Prompt(entry["text"], entry.get("held_out", True), ideal))
        problems += wrong
    if problems:
        raise Problems(str(path), problems)
    return PromptSet(prompts, content["class_noun"])


def _wrong_keys(content: dict, known: dict[str, type], prefix: str) -> list[Problem]:
    problems = []
    for key, value in content.items():
        if key not in known:
            problems.append(Problem(prefix + key, f"unknown key; known are {', '.join(known)}"))
        elif not isinstance(value, known[key]):
            problems.append(Problem(f"{prefix}{key} = {value}", f"must be a {known[key].__name__}"))
    return problems


def assign_prompts(
    carried: Mapping[str, str | None], given: PromptSet | None, *, trigger: str | None = None
) -> list[str]:
    """The prompt of each image, for images in sorted order.

    carried: by the name of each image, the prompt that its metadata holds, or None.
    given: the prompts of a file. Where images carry some of them, the metadata decides which; where none does, there
    must be as many as images, and they are taken in order. {subject} becomes the class noun.

    Raises: RequestError if an image is left without a prompt.
    """
    if given is None:
        missing = sum(prompt is None for prompt in carried.values())
        if missing:
            raise RequestError(
                f"{missing} of {len(carried)} images do not say which prompt made them.",
                fix="give --prompts FILE with one prompt a line, in the order of the sorted file names",
            )
        return list(carried.values())
    texts = [_filled(prompt.text, given.class_noun) for prompt in given.prompts]
    # Word for word first; then the longest that fits: "a {subject}" fits everything that ends with the noun.
    words = {"class_noun": given.class_noun or ""}
    exact = {fill(p.text, trigger=trigger or "", **words): text for p, text in zip(given.prompts, texts, strict=True)}
    exact |= {text: text for text in texts}
    pairs = [(_pattern(p.text, given.class_noun, trigger), t) for p, t in zip(given.prompts, texts, strict=True)]
    pairs.sort(key=lambda pair: -len(pair[1]))
    matched = [
        exact.get(prompt) or next((text for pattern, text in pairs if prompt and pattern.fullmatch(prompt)), None)
        for prompt in carried.values()
    ]
    if all(matched):
        return matched
    if any(matched):
        pairs = zip(carried.items(), matched, strict=True)
        others = [f"{name} ({prompt or 'none'})" for (name, prompt), text in pairs if text is None]
        more = f" and {len(others) - MOST_NAMED} more" if len(others) > MOST_NAMED else ""
        raise RequestError(
            f"Some images carry one of these {len(texts)} prompts in their metadata, but {len(others)} of "
            f"{len(carried)} do not: {'; '.join(others[:MOST_NAMED])}{more}.",
            fix="write their prompts into the file as well, or move these images away",
        )
    if len(texts) == len(carried):
        return texts
    raise RequestError(
        f"{len(carried)} images but {len(texts)} prompts, and none of the images carries one of these prompts in its "
        "metadata.",
        fix="give one prompt for each image, in the order of the sorted file names (images that symdream generate "
        "wrote carry theirs)",
    )


def _filled(text: str, class_noun: str | None) -> str:
    if PLACEHOLDER in text and class_noun is None:
        raise RequestError(
            f'The prompt "{text}" holds {PLACEHOLDER}, but a plain text file does not say what the subject is.',
            fix="write the class noun into it, or use a prompts.toml with class_noun",
        )
    return fill(text, trigger="", class_noun=class_noun or "")


def _pattern(text: str, class_noun: str | None, trigger: str | None) -> re.Pattern:
    """What an image made by this prompt carries: any trigger, or none, before the class noun."""
    if class_noun is not None:
        before, _, after = text.partition(PLACEHOLDER)
        return re.compile(f"{re.escape(before)}(?:.+ )?{re.escape(class_noun)}{re.escape(after)}")
    words = [re.escape(word) for word in text.split() if word.lower() != (trigger or "").lower()]
    between = rf"(?: {re.escape(trigger)})? " if trigger else " "
    start = rf"(?:{re.escape(trigger)} )?" if trigger else ""
    end = rf"(?: {re.escape(trigger)})?" if trigger else ""
    return re.compile(start + between.join(words) + end, re.IGNORECASE)
