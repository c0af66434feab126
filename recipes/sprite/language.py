"""Sprite's language: the words of its captions, as text and as tables of tokens that the device composes from.

    a {style} of a {thing} [and a {thing}] on a [pattern] {colour} background

In training a caption may leave out the style or the background, so that each is learned for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from runpy import run_path

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
STYLES = ("3d render", "glossy icon", "flat icon", "cartoon emoji", "simple emoji")
# One drawing of Fluent Emoji's, shaded twice: the two hardly differ (README.md).
ONE_DRAWING = ("3d render", "glossy icon")
# Measured once, for the sample subjects: one table serves both recipes.
_MEASURED = run_path(str(HERE.parent / "subjects" / "backgrounds.py"))
COLOURS = tuple(_MEASURED["COLOURS"])
PATTERNS = tuple(_MEASURED["PATTERNS"])  # plain first: no word


def tones() -> Tensor:
    """The two tones of each colour, (13, 2, 3) from 0 to 1: the ground and its pattern."""
    pairs = [(_MEASURED["COLOURS"][colour], _MEASURED["second_tone"](colour).tolist()) for colour in COLOURS]
    return torch.tensor([[list(first), list(second)] for first, second in pairs]).float() / 255


def background_words(colour: str, pattern: str) -> str:
    return f" on a {'' if pattern == PATTERNS[0] else pattern + ' '}{colour} background"


def caption(style: str | None, things: Sequence[str], background: tuple[str, str] | None) -> str:
    """The caption of one or two things. style None, background (colour, pattern) None: not said."""
    opening = "" if style is None else f"a {style} of "
    ending = background_words(*background) if background else ""
    return opening + " and ".join(f"a {thing}" for thing in things) + ending


def training_icons() -> dict[str, str]:
    """Icon name -> the caption's word, of the things that are trained on."""
    return _read_list(HERE / "things.txt")


def held_out_icons() -> dict[str, str]:
    """The same of the held-out subjects."""
    return _read_list(HERE / "held_out.txt")


def _read_list(path: Path) -> dict[str, str]:
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {icon.strip(): word.strip() or icon.strip().replace("-", " ") for icon, _, word in pairs}


@dataclass
class TokenTables:
    """Tokens of each piece of a caption, -1 where there is none: what `token_ids` composes from.

    styles (5, a), things (T, b), backgrounds (13, 4, c) as int64; "a" stands before a thing, "and a" between two.
    """

    styles: Tensor
    things: Tensor
    backgrounds: Tensor
    article: Tensor
    conjunction: Tensor
    start: int
    end: int
    length: int

    @classmethod
    def of(cls, tokenizer, things: Sequence[str]) -> TokenTables:
        """Byte pairs never cross a space, so that the tokens of a caption are those of its pieces in a row."""

        def ids(texts: Sequence[str]) -> Tensor:
            rows = [tokenizer(text, add_special_tokens=False).input_ids for text in texts]
            widest = max(len(row) for row in rows)
            return torch.tensor([row + [-1] * (widest - len(row)) for row in rows])

        grounds = ids([background_words(colour, pattern).strip() for colour in COLOURS for pattern in PATTERNS])
        return cls(
            styles=ids([f"a {style} of" for style in STYLES]),
            things=ids(things),
            backgrounds=grounds.view(len(COLOURS), len(PATTERNS), -1),
            article=ids(["a"])[0],
            conjunction=ids(["and a"])[0],
            start=tokenizer.bos_token_id,
            end=tokenizer.eos_token_id,
            length=tokenizer.model_max_length,
        )

    def to(self, device: torch.device) -> TokenTables:
        names = ("styles", "things", "backgrounds", "article", "conjunction")
        moved = {name: getattr(self, name).to(device) for name in names}
        return TokenTables(**moved, start=self.start, end=self.end, length=self.length)

    def token_ids(
        self, style: Tensor, things: Tensor, colour: Tensor, pattern: Tensor, says_style: Tensor, says_ground: Tensor
    ) -> Tensor:
        """The captions' tokens with start, end and padding: (B, length).

        style, colour, pattern (B,) indices; things (B, 2) indices into the table, the second -1 where there is one
        thing only; says_style, says_ground (B,) bool. Nothing here waits for the device.
        """
        count, device = len(style), style.device
        none = torch.full((), -1, device=device)
        second = things[:, 1:] >= 0

        def when(said: Tensor, tokens: Tensor) -> Tensor:
            return torch.where(said.view(-1, 1), tokens, none)

        pieces = [
            torch.full((count, 1), self.start, device=device),
            when(says_style, self.styles[style]),
            self.article.expand(count, -1),
            self.things[things[:, 0]],
            when(second, self.conjunction.expand(count, -1)),
            when(second, self.things[things[:, 1].clamp(min=0)]),
            when(says_ground, self.backgrounds[colour, pattern]),
        ]
        row = torch.cat(pieces, dim=1)
        # Said tokens to the front, in order: a stable sort by whether there is one.
        row = row.gather(1, (row < 0).to(torch.uint8).argsort(dim=1, stable=True))
        row = torch.nn.functional.pad(row, (0, max(0, self.length - row.shape[1])), value=-1)[:, : self.length]
        return torch.where(row < 0, self.end, row)  # one end token ends the text, and more of it fill up


def drawing_of(style: Tensor) -> Tensor:
    """The styles' indices, those of ONE_DRAWING by one number."""
    first, *others = (STYLES.index(name) for name in ONE_DRAWING)
    for other in others:
        style = style.masked_fill(style == other, first)
    return style
