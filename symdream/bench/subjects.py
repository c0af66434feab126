"""The subjects of a comparison: the samples', or a folder in the layout of DreamBooth's public data set.

A folder of subjects has one folder of photos each, with a prompts.toml as sample_data/ has them; or it holds
prompts_and_classes.txt (symdream.bench.dreambooth), which tells the class of each subject and the prompts of all.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from symdream.bench.dreambooth import PROMPTS_FILE, is_data_set, read_protocol
from symdream.data.images import read_folder
from symdream.errors import Problem, RequestError, did_you_mean
from symdream.metrics.prompts import PromptSet, read_prompts, selection_prompts


@dataclass(frozen=True)
class BenchSubject:
    """One subject: its photos, what it is asked for, and what is known of the truth.

    `prompts` hold {subject} and are those of the report; `selection` are others, for tuning. `ideals[prompt]` is a
    picture of the true subject as that prompt asks, `masks[stem]` what of the photo of that stem is its subject.
    """

    name: str
    folder: Path
    class_noun: str
    prompts: list[str]
    selection: list[str]
    tuning: bool = False
    ideals: dict[str, Path] = field(default_factory=dict)
    masks: dict[str, Path] = field(default_factory=dict)

    def photos(self) -> dict[str, object]:
        """The photos by file name. Raises: RequestError if there are none or some cannot be read."""
        found = read_folder(self.folder)
        if found.problems:
            raise RequestError(f"{len(found.problems)} photos cannot be read.", where=found.problems[0])
        return {path.name: image for path, image in found.images.items()}


def read_subjects(folder: Path | None, *, embedded: bool) -> dict[str, BenchSubject]:
    """All subjects in `folder` by name (None: the samples). `embedded`: the base is sprite, with a language of its own.

    Raises: RequestError if it is no such folder.
    """
    if folder is None:
        from symdream.data.samples import sample_data

        folder = sample_data()
    folder = Path(folder)
    if not folder.is_dir():
        raise RequestError(f"No folder of subjects {folder}.", fix="name a folder with one folder of photos a subject")
    if is_data_set(folder):
        return _dreambooth(folder, embedded)
    places = sorted(place.parent for place in folder.glob("*/prompts.toml"))
    if not places:
        raise RequestError(
            f"{folder} holds no subjects: no folder in it has a prompts.toml, and there is no {PROMPTS_FILE}.",
            fix="lay it out as sample_data/, or as the public DreamBooth data set",
        )
    return {place.name: _sample(place, embedded) for place in places}


def _sample(folder: Path, embedded: bool) -> BenchSubject:
    file = folder / "prompts.toml"
    asked = read_prompts(file)
    tuning = bool(tomllib.loads(file.read_text(encoding="utf-8-sig")).get("tuning", False))
    held_out, selection = asked.held_out(), selection_prompts(asked, embedded)
    return BenchSubject(
        folder.name,
        folder,
        asked.class_noun,
        _texts(held_out),
        _texts(selection),
        tuning,
        {prompt.text: prompt.ideal for prompt in held_out.prompts if prompt.ideal},
        {mask.stem: mask for mask in sorted((folder / "masks").glob("*.png"))},
    )


def _dreambooth(folder: Path, embedded: bool) -> dict[str, BenchSubject]:
    protocol, selection = read_protocol(folder), _texts(selection_prompts(None, embedded))
    return {
        name: BenchSubject(name, folder / name, noun, protocol.prompts_for(noun), selection)
        for name, noun in protocol.classes.items()
    }


def _texts(prompts: PromptSet) -> list[str]:
    return [prompt.text for prompt in prompts.prompts]


def unknown_subjects(asked: Sequence[str], known: dict[str, BenchSubject], key: str) -> list[Problem]:
    """One problem for each name that is no subject, with the name that was perhaps meant."""
    problems = []
    for name in asked:
        if name not in known:
            hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            problems.append(Problem(f"{key} = {name}", "is no subject here" + hint))
    return problems
