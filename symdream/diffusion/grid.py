"""A labelled grid of pictures: rows and columns with their names, readable at any size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from symdream.diffusion.png import save_overview

MARGIN = 10
TEXT = (40, 40, 46)


def make_grid(
    rows: Sequence[Sequence[Image.Image]],
    *,
    column_labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    title: str = "",
    cell: int = 192,
    labels_above_row: int = 0,
    captions: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Rows of images, rows may be of different length, with wrapped labels beside and above.

    `captions[row][column]`, one line each, stand under the images. Column labels stand above row
    `labels_above_row`. Every image is fitted into `cell` × `cell` pixels (Lanczos).
    """
    font, bold = _font(15), _font(22)
    columns = max(len(row) for row in rows)
    label_width = 0
    row_texts = [_wrap(text, font, cell) for text in row_labels]
    if row_texts:
        label_width = max(int(font.getlength(line)) for text in row_texts for line in text) + 2 * MARGIN
    column_texts = [_wrap(text, font, cell - MARGIN) for text in column_labels]
    line = 19
    head = max((len(text) for text in column_texts), default=0) * line + (MARGIN if column_texts else 0)
    top = MARGIN + (36 if title else 0)
    foot = line + MARGIN // 2 if captions else 0
    pitch = cell + foot + MARGIN
    width = label_width + columns * (cell + MARGIN) + MARGIN
    height = top + head + len(rows) * pitch
    canvas = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((MARGIN, MARGIN), title, TEXT, bold)
    for x, text in enumerate(column_texts):
        left = label_width + MARGIN + x * (cell + MARGIN)
        start = top + labels_above_row * pitch + head - MARGIN // 2 - len(text) * line
        for i, words in enumerate(text):
            draw.text((left, start + i * line), words, TEXT, font)
    for y, row in enumerate(rows):
        up = top + y * pitch + (head if y >= labels_above_row else 0)
        if y < len(row_texts):
            start = up + (cell - len(row_texts[y]) * line) // 2
            for i, words in enumerate(row_texts[y]):
                draw.text((MARGIN, start + i * line), words, TEXT, font)
        for x, image in enumerate(row):
            fitted = image.convert("RGB").copy()
            scale = cell / max(fitted.size)
            fitted = fitted.resize([max(1, round(s * scale)) for s in fitted.size], Image.Resampling.LANCZOS)
            canvas.paste(
                fitted,
                (
                    label_width + MARGIN + x * (cell + MARGIN) + (cell - fitted.width) // 2,
                    up + (cell - fitted.height) // 2,
                ),
            )
            if captions:
                middle = label_width + MARGIN + x * (cell + MARGIN) + cell // 2
                draw.text((middle, up + cell + MARGIN // 2), captions[y][x], TEXT, font, anchor="ma")
    return canvas


def first_of_last_row(grid: Image.Image, cell: int = 192) -> Image.Image:
    """The first picture of the last row of a grid that `make_grid` made with this `cell`.

    Row labels are narrower than a cell, so what the cells leave of the width is theirs.
    """
    left = (grid.width - MARGIN) % (cell + MARGIN) + MARGIN
    top = grid.height - MARGIN - cell
    return grid.crop((left, top, left + cell, top + cell))


def save_grid(path: Path, rows: Sequence[Sequence[Image.Image]], **labels) -> None:
    save_overview(make_grid(rows, **labels), path)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Lines of at most `width` pixels, broken between words, and inside of a word that is longer than a line."""
    lines: list[str] = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
        while len(rest := lines[-1]) > 1 and font.getlength(rest) > width:
            fits = next(end for end in range(2, len(rest) + 1) if font.getlength(rest[:end]) > width) - 1
            lines[-1:] = [rest[:fits], rest[fits:]]
    return lines
