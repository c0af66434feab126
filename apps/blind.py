"""The blind test: which of two pictures is more the subject? Votes, and how they stand to DINO."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import comb
from typing import Any

from symdream_apps.text import no_markdown

MAX_PAIRS = 30
A, B, NEITHER = "A", "B", "neither"


@dataclass(frozen=True)
class Pair:
    """Two pictures of one row of a comparison, shown as A and B without a name; `a` and `b` are columns."""

    row: int
    a: int
    b: int


@dataclass(frozen=True)
class Vote:
    """One answer, with what was hidden while it was given."""

    prompt_a: str
    prompt_b: str
    seed: int
    shown_as_a: str
    shown_as_b: str
    choice: str
    dino_a: float | None
    dino_b: float | None

    @property
    def agrees(self) -> bool | None:
        """Whether the chosen picture has the higher DINO; None for no choice, no scores, or equal ones."""
        if self.choice == NEITHER or self.dino_a is None or self.dino_b is None or self.dino_a == self.dino_b:
            return None
        return (self.choice == A) == (self.dino_a > self.dino_b)

    @property
    def chosen(self) -> str | None:
        return {A: self.shown_as_a, B: self.shown_as_b}.get(self.choice)


def draw_pairs(rows: int, columns: int, seed: int | None = None) -> list[Pair]:
    """Every pair of variants of every row, in random order on random sides; at most MAX_PAIRS."""
    chance = random.Random(seed)
    pairs = [
        Pair(row, *(pair if chance.random() < 0.5 else pair[::-1]))
        for row in range(rows)
        for pair in combinations(range(columns), 2)
    ]
    chance.shuffle(pairs)
    return pairs[:MAX_PAIRS]


def tally(votes: Sequence[Vote]) -> dict[str, tuple[int, int]]:
    """(won, shown) of each variant, where a choice was made."""
    counts: dict[str, tuple[int, int]] = {}
    for vote in votes:
        for name in (vote.shown_as_a, vote.shown_as_b):
            won, shown = counts.get(name, (0, 0))
            counts[name] = (won + (vote.chosen == name), shown + (vote.chosen is not None))
    return counts


def agreement(votes: Sequence[Vote]) -> tuple[int, int, float] | None:
    """(agreeing, counted, p): how often the choice had the higher DINO, and how likely chance alone does as well.

    p = P(X ≥ agreeing), X ~ Binomial(counted, 1/2): the one-sided sign test. None if no vote counts.
    """
    counted = [vote.agrees for vote in votes if vote.agrees is not None]
    n, k = len(counted), sum(counted)
    return (k, n, sum(comb(n, i) for i in range(k, n + 1)) / 2**n) if n else None


def as_csv(votes: Sequence[Vote]) -> str:
    """One line a vote; `agrees` is yes, no or empty."""
    buffer = io.StringIO()
    fields = [*Vote.__dataclass_fields__, "agrees_with_dino"]
    writer = csv.DictWriter(buffer, fields, lineterminator="\n")
    writer.writeheader()
    for vote in votes:
        told: dict[str, Any] = asdict(vote)
        writer.writerow({**told, "agrees_with_dino": {True: "yes", False: "no", None: ""}[vote.agrees]})
    return buffer.getvalue()


def conclusion(votes: Sequence[Vote]) -> str:
    """The result in Markdown."""
    lines = ["| variant | chosen | of |", "|:--|--:|--:|"]
    for name, (won, shown) in sorted(tally(votes).items(), key=lambda item: -item[1][0]):
        lines.append(f"| {no_markdown(name)} | {won} | {shown} |")
    found = agreement(votes)
    if found is None:
        lines += ["", "DINO cannot be set against these votes: there are no scores, or no choice was made."]
    else:
        k, n, p = found
        lines += ["", f"Your choice had the higher DINO in **{k} of {n}** pairs (by chance as often: p = {p:.2g})."]
    return "\n".join(lines)
