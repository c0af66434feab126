"""The same prompts and seeds by several variants: base and adapters, or one adapter at several weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean

from PIL import Image

from symdream.data.captions import PLACEHOLDER
from symdream.errors import Problem, Problems, RequestError, SymdreamError
from symdream_apps.adapters import AdapterCard, read_card
from symdream_apps.generation import (
    Made,
    PictureRequest,
    check,
    draw,
    negative_notes,
    prompt_notes,
    settings_of,
    words_for,
)
from symdream_apps.references import read
from symdream_apps.studio import Studio, Worn
from symdream_apps.text import numbered
from symdream_apps.wording import brief
from symdream_apps.work import Line, Update

MAX_PICTURES = 64
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


@dataclass(frozen=True)
class Variant:
    """One column of the comparison; `words` are what {subject} becomes in its prompts. No other column has its label,
    by which votes and scores are told."""

    label: str
    adapters: tuple[Worn, ...] = ()
    words: str = ""


@dataclass(frozen=True)
class Row:
    """One row: a prompt ({subject} is filled in for each variant) and a seed."""

    prompt: str
    seed: int


@dataclass
class Cell:
    made: Made
    dino: float | None = None
    clip_t: float | None = None

    @property
    def caption(self) -> str:
        return "" if self.dino is None else f"DINO {self.dino:.2f} · CLIP-T {self.clip_t:.2f}"


@dataclass
class Comparison:
    """`cells[row][column]`; `compared_with[column]` are the photos of DINO's scores, none where there are no scores."""

    variants: list[Variant]
    rows: list[Row]
    cells: list[list[Cell]]
    compared_with: list[list[Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def references(self) -> list[Path]:
        """All photos that DINO compared with."""
        return list(dict.fromkeys(photo for photos in self.compared_with for photo in photos))

    @property
    def scored(self) -> bool:
        return bool(self.cells) and self.cells[0][0].dino is not None

    @property
    def prompts(self) -> list[str]:
        """Each row's prompt: the one that all variants were told, or as it was typed where they were told different
        ones."""
        told = [{cell.made.settings["prompt"] for cell in cells} for cells in self.cells]
        return [row.prompt if len(prompts) > 1 else prompts.pop() for row, prompts in zip(self.rows, told, strict=True)]

    def means(self) -> list[tuple[str, float, float]]:
        """(variant, mean DINO, mean CLIP-T), where there are scores."""
        columns = list(zip(*self.cells, strict=True))
        return [
            (variant.label, mean(cell.dino for cell in column), mean(cell.clip_t for cell in column))
            for variant, column in zip(self.variants, columns, strict=True)
        ]

    def grid(self, cell: int = 208) -> Image.Image:
        """The labelled grid, with the scores under each picture."""
        from symdream.diffusion.grid import make_grid

        return make_grid(
            [[c.made.image for c in row] for row in self.cells],
            column_labels=column_labels(self.variants, self.rows),
            row_labels=[f"{prompt} · seed {row.seed}" for prompt, row in zip(self.prompts, self.rows, strict=True)],
            captions=[[c.caption for c in row] for row in self.cells] if self.scored else (),
            cell=cell,
        )


def of_adapters(cards: Sequence[AdapterCard], *, base_too: bool = True) -> list[Variant]:
    """The base alone (if asked for) and each adapter at the weight that suits it."""
    # It is asked for the same subject as the adapters: the same words, without what they mean.
    words = next((card.words for card in cards if card.trigger), "")
    alone = [Variant("base alone", words=words)] if base_too else []
    labels = numbered([card.name for card in cards], taken=[variant.label for variant in alone])
    return alone + [
        Variant(label, (Worn(card.path, card.weight),), card.words) for label, card in zip(labels, cards, strict=True)
    ]


def of_weights(card: AdapterCard, weights: Sequence[float]) -> list[Variant]:
    """One adapter at each of `weights`."""
    weights = sorted(map(float, weights))
    labels = numbered([f"{card.name} × {weight:g}" for weight in weights])
    return [
        Variant(label, (Worn(card.path, weight),), card.words) for label, weight in zip(labels, weights, strict=True)
    ]


def column_labels(variants: Sequence[Variant], rows: Sequence[Row]) -> list[str]:
    """What stands above the columns: the variants, with their words where these make different prompts of a row."""
    differ = len({variant.words for variant in variants}) > 1 and any(PLACEHOLDER in row.prompt for row in rows)
    return [f"{variant.label}: {variant.words}" if differ else variant.label for variant in variants]


def check_comparison(variants: Sequence[Variant], prompts: Sequence[str], seeds: Sequence[int]) -> list[Row]:
    """The rows of the comparison. Raises: Problems, all at once."""
    problems = []
    prompts = [prompt.strip() for prompt in prompts if prompt.strip()]
    if not prompts:
        problems.append(Problem("prompts", "are empty: write one a line"))
    if not seeds:
        problems.append(Problem("seeds", "are empty: give at least one"))
    if len(variants) < 2:
        problems.append(Problem("variants", "there is only one: choose another adapter, the base too, or two weights"))
    count = len(variants) * len(prompts) * len(seeds)
    if count > MAX_PICTURES:
        problems.append(Problem(f"{count} pictures", f"are too many at once: at most {MAX_PICTURES}"))
    if problems:
        raise Problems("the request", problems)
    return [Row(prompt, seed) for prompt in prompts for seed in seeds]


def compare(
    studio: Studio,
    request: PictureRequest,
    variants: Sequence[Variant],
    rows: Sequence[Row],
    compared_with: Sequence[Sequence[Path]],
    line: Line,
    keep: Callable[[int, Made], None] | None = None,
) -> Comparison:
    """Draw every row by every variant, with the settings of `request`, and score it against its variant's photos; runs
    on the studio's worker.

    Pictures are told as they come, by their place row · columns + column, and given to keep(place, picture). Where the
    scores cannot be had, a note says why, and the pictures are there all the same.
    Raises: Problems, RequestError, WorkError; Stopped if `line.stop` was set.
    """
    everyone = [[read_card(studio.context, worn.path) for worn in variant.adapters] for variant in variants]
    all_cards = list(dict.fromkeys(card for cards in everyone for card in cards))
    notes: list[str] = []
    told = [[words_for(row.prompt, cards or all_cards) for row in rows] for cards in everyone]
    for variant, prompts in zip(variants, told, strict=True):
        for row, prompt in zip(rows, prompts, strict=True):
            check(replace(request, adapters=variant.adapters, prompt=prompt, seed=row.seed, count=1))

    def draw_column(place: int, variant: Variant, cards: Sequence[AdapterCard], prompts: Sequence[str]) -> list[Cell]:
        negative = words_for(request.negative_prompt, cards or all_cards)
        asked = replace(request, adapters=variant.adapters, negative_prompt=negative)
        base, found = studio.wear(request.base, variant.adapters, line.say)
        for prompt in dict.fromkeys(prompts):
            found = found + prompt_notes(base, prompt, cards)
        found = found + negative_notes(base, asked)
        notes.extend(note for note in found if note not in notes)
        column: list[Cell] = []

        def finished(first: int, images: list[Image.Image]) -> None:
            for i, image in enumerate(images, first):
                made = Made(image, settings_of(base, asked, prompts[i], image, rows[i].seed, studio.context))
                if keep:
                    keep(i * len(variants) + place, made)
                column.append(Cell(made))
            line.events.put(
                Update(pictures={i * len(variants) + place: image for i, image in enumerate(images, first)})
            )

        draw(
            base,
            prompts,
            [row.seed for row in rows],
            asked,
            line,
            on_step=lambda done, total: line.on_step(place * total + done, len(variants) * total),
            on_images=finished,
            watched=False,
        )
        return column

    columns = [draw_column(i, *parts) for i, parts in enumerate(zip(variants, everyone, told, strict=True))]
    cells = [list(row) for row in zip(*columns, strict=True)]
    result = Comparison(list(variants), list(rows), cells, [list(photos) for photos in compared_with], notes)
    if result.references:
        try:
            score(studio, result, all_cards, line)
        except SymdreamError as error:
            result.notes.append(f"No scores: {brief(error, studio.context.runs)}")
            result.compared_with = []
    return result


def score(studio: Studio, comparison: Comparison, cards: Sequence[AdapterCard], line: Line) -> None:
    """DINO against the photos and CLIP-T against its prompt, for every cell.

    Raises: RequestError, WorkError if photos or encoders cannot be had.
    """
    from symdream.metrics.evaluate import score_images, without_trigger
    from symdream.training.photographs import photo_warning

    dino, clip = studio.encoders(line.say)
    line.say("Scoring …")
    sets: dict[tuple[Path, ...], list[Cell]] = {}
    for photos, column in zip(comparison.compared_with, zip(*comparison.cells, strict=True), strict=True):
        sets.setdefault(tuple(photos), []).extend(column)
    found = []
    for files, cells in sets.items():
        photos = read(files)
        if dino.is_sprite and photo_warning(photos):
            note = "These are photographs, of which sprite's encoders know nothing: DINO says little."
            comparison.notes += [] if note in comparison.notes else [note]
        texts = [cell.made.settings["prompt"] for cell in cells]
        for trigger in dict.fromkeys(card.trigger for card in cards if card.trigger):
            texts = [without_trigger(text, trigger) for text in texts]
        images = [cell.made.image for cell in cells]
        found += zip(cells, score_images(images, texts, photos, dino=dino, clip=clip)["images"], strict=True)
    for cell, scores in found:  # all of them, or none
        cell.dino, cell.clip_t = scores["dino"], scores["clip_t"]


def parse_seeds(text: str) -> list[int]:
    """ "0, 1, 5-7" -> [0, 1, 5, 6, 7]. Raises: RequestError if it is something else, or more than MAX_PICTURES."""
    seeds: dict[int, None] = {}
    for part in text.replace(";", ",").replace(" ", ",").split(","):
        if not part:
            continue
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise RequestError(f'"{part}" is no seed.', fix="write numbers, such as 0, 1, 2 or 0-3")
        start, end = int(first), int(last if dash else first)
        count = end - start + 1
        if count < 1:
            raise RequestError(f"{part} runs backwards.", fix=f"write {end}-{start}")
        if count > MAX_PICTURES:
            raise RequestError(f"{part} are {count} seeds.", fix=f"at most {MAX_PICTURES} pictures at once")
        seeds.update(dict.fromkeys(range(start, end + 1)))
    return list(seeds)
