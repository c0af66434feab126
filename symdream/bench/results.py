"""results.json and scores.csv: what is known of a grid, from its cells and from an earlier results.json.

Both are written anew, atomically, after every cell. A folder that holds only these two, copied from elsewhere, is
enough to go on from: what is finished in them stays finished.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from symdream import __version__
from symdream.bench.cells import Cell, failed_entry
from symdream.errors import Problem, Problems, RequestError, collected
from symdream.files import write_text

FORMAT = 1
RESULTS, SCORES = "results.json", "scores.csv"
COLUMNS = ("cell", "arm", "method", "rank", "subject", "training_seed", "step", "prompt", "image_seed", "dino",
           "clip_i", "clip_t", "nearest_photo", "memorised", "nearest_cosine", "dino_foreground",
           "dino_matched")  # fmt: skip
INTEGERS = ("rank", "training_seed", "step", "image_seed", "memorised")
NUMBERS = ("dino", "clip_i", "clip_t", "nearest_cosine", "dino_foreground", "dino_matched")


def read_results(folder: Path) -> dict[str, Any] | None:
    """FOLDER/results.json, None if there is none.

    Raises: RequestError if it is damaged or of another format version.
    """
    path = Path(folder) / RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RequestError(f"{path} cannot be read: {error}.", fix="restore it, or take another folder") from None
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise RequestError(
            f"{path} has format {found}; this symdream reads format {FORMAT}.",
            fix="use the version that wrote it"
            + (f" ({content['symdream']})" if isinstance(content, dict) and content.get("symdream") else ""),
        )
    return content


def read_comparison(folder: Path) -> dict[str, Any]:
    """FOLDER/results.json, which has to be there. Raises: RequestError, also as `read_results` does."""
    content = read_results(folder)
    if content is None:
        raise RequestError(
            f"No comparison in {folder}: it has no {RESULTS}.", fix="name the --output of a symdream compare"
        )
    return content


def read_comparisons(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """`read_comparison` of each. Raises: Problems, of all folders at once."""
    contents: list[dict[str, Any]] = []
    wrong: list[Problem] = []
    for folder in folders:
        with collected(wrong, str(folder)):
            contents.append(read_comparison(folder))
    if wrong:
        raise Problems("the request", wrong)
    return contents


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The lines of FOLDER/scores.csv with numbers as numbers, [] if there is none.

    Raises: RequestError if it is no such table.
    """
    path = Path(folder) / SCORES
    if not path.is_file():
        return []
    rows = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := set(COLUMNS) - set(reader.fieldnames or ()):
            raise RequestError(f"{path} lacks the columns {', '.join(sorted(missing))}.")
        for number, line in enumerate(reader, 2):
            try:
                rows.append({name: _value(name, line[name]) for name in COLUMNS})
            except (TypeError, ValueError):
                raise RequestError(f"Line {number} of {path} is damaged.", fix="restore the file") from None
    return rows


def _value(name: str, text: str) -> Any:
    if text == "":
        return None
    return int(text) if name in INTEGERS else float(text) if name in NUMBERS else text


def write_rows(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """scores.csv; a number is written with six digits, None as nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    write_text(Path(folder) / SCORES, text.getvalue())


def write_results(folder: Path, content: Mapping[str, Any]) -> None:
    """results.json: readable at the top, one line for each comparison and cell, since there are many numbers in it."""
    long = ("paired", "cells")
    parts = [json.dumps({k: v for k, v in content.items() if k not in long}, indent=1, ensure_ascii=False)[:-2]]
    for name in (n for n in long if n in content):
        lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in content[name])
        parts.append(f' "{name}": [\n{lines}\n]')
    write_text(Path(folder) / RESULTS, ",\n".join(parts) + "}\n")


def assemble(head: Mapping[str, Any], cells: Sequence[Cell], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """results.json without its analysis: `found[id]` is {cell, rows} of those that were tried."""
    entries = [found[c.id]["cell"] if c.id in found else failed_entry(c, "missing", None) for c in cells]
    return {
        "format": FORMAT,
        "symdream": __version__,
        "complete": bool(entries) and all(entry["status"] == "finished" for entry in entries),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **head,
        "analysis": {},
        "paired": [],
        "cells": entries,
    }
