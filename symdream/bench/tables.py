"""The main tables of a comparison, for the page, as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from symdream.bench.comparisons import HYPERVOLUME
from symdream.bench.wording import count, interval, missing_told, number, p_value, primary_entries, spread, verdict_told

# Score, heading, what it says. "↑": more is better, where that can be said.
COLUMNS = (
    ("dino", "DINO ↑", "mean cosine of all pictures with all photos"),
    ("clip_t", "CLIP-T ↑", "cosine of each picture with its prompt, the rare token left out"),
    ("clip_i", "CLIP-I ↑", "as DINO, with CLIP"),
    (HYPERVOLUME, "hypervolume ↑", "area of (CLIP-T, DINO) that the run's states dominate, above the base's DINO"),
    ("dino_foreground", "foreground ↑", "DINO of what stands out from the background, against the photos' subjects"),
    ("dino_matched", "matched ↑", "DINO against the true subject composed as the same prompt asks"),
    ("drift", "class kept ↑", "cosine of the class's pictures (no trigger) before and after: 1 where unchanged"),
    ("diversity", "diversity", "mean 1 − cosine among the pictures of a run"),
    ("memorised", "memorised ↓", "share of pictures nearer to a photo than the two closest photos to each other"),
)
REFERENCES = (("base", "base alone"), ("ceiling", "true subject (ceiling)"), ("real", "photos among themselves"))


@dataclass(frozen=True)
class Row:
    """One line: `cells` in the order of COLUMNS; `kind` is "arm" or "reference"."""

    label: str
    kind: str
    parameters: str
    seconds: str
    cells: list[str]


def shown_columns(content: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Those that something is known of."""
    analysis = content["analysis"]
    rows = [row["scores"] for row in analysis["arms"].values() if row]
    rows += list(analysis["references"].values())
    return [column for column in COLUMNS if any(row.get(column[0]) is not None for row in rows)]


def score_rows(content: Mapping[str, Any]) -> list[Row]:
    """The arms with 95 % half widths over subjects, then base, ceiling and photos."""
    analysis, names = content["analysis"], [name for name, _, _ in shown_columns(content)]
    rows = []
    for arm in content["grid"]["arms"]:
        found = analysis["arms"][arm["id"]]
        cells = [spread(found["scores"].get(name)) for name in names] if found else ["–"] * len(names)
        seconds = number(found["seconds_per_step"], 2) if found else "–"
        rows.append(Row(arm["label"], "arm", f"{arm['parameters']:,}", seconds, cells))
    for which, label in REFERENCES:
        if found := analysis["references"].get(which):
            rows.append(Row(label, "reference", "–", "–", [number(found.get(name)) for name in names]))
    return rows


def primary_rows(content: Mapping[str, Any]) -> list[list[str]]:
    """In the order of PRIMARY_HEAD."""
    labels = {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}
    return [
        [f"{labels[e['arm']]} − {labels[e['against']]}", interval(e), verdict_told(e), p_value(e["p"]),
         p_value(e["p_holm"]), str(e["n"]), missing_told(e)]
        for e in primary_entries(content)
    ]  # fmt: skip


PRIMARY_HEAD = ["DINO at matched CLIP-T", "difference [95 %]", "verdict", "p", "p (Holm)", "subjects", "pairs of runs"]


def markdown(content: Mapping[str, Any], lead: Sequence[str]) -> str:
    """Both tables under `lead`, the headline and the warnings."""
    head = ["method", "parameters", *(title for _, title, _ in shown_columns(content)), "s / step"]
    rows = [[row.label, row.parameters, *row.cells, row.seconds] for row in score_rows(content)]
    parts = [lead[0], *(f"> {line}" for line in lead[1:]), scope(content), _markdown_table(head, rows)]
    if primary := primary_rows(content):
        parts.append(_markdown_table(PRIMARY_HEAD, primary))
    return "\n\n".join(parts) + "\n"


def latex(content: Mapping[str, Any], lead: Sequence[str]) -> str:
    """Both tables for booktabs, the headline and the warnings as comments."""
    head = ["method", "parameters", *(title for _, title, _ in shown_columns(content)), "s / step"]
    rows = [[row.label, row.parameters, *row.cells, row.seconds] for row in score_rows(content)]
    comments = "\n".join(f"% {_plain_ascii(line)}" for line in [*lead, scope(content), r"needs \usepackage{booktabs}"])
    parts = [comments, _latex_table(head, rows)]
    if primary := primary_rows(content):
        parts.append(_latex_table(PRIMARY_HEAD, primary))
    return "\n\n".join(parts) + "\n"


def scope(content: Mapping[str, Any]) -> str:
    """What the table's means are over."""
    grid, blocks = content["grid"], content["analysis"]["blocks"]
    each = [len(prompts) * len(grid["image_seeds"]) for prompts in grid["prompts"].values()] or [0]
    pictures = f"{min(each)}" + (f" to {max(each)}" if max(each) > min(each) else "")
    without = f" Nothing is finished of {', '.join(blocks['without'])}." if blocks["without"] else ""
    return (
        f"Means over {count(blocks['subjects'], 'subject')} ({count(blocks['count'], 'run')} of each arm: those that "
        f"all arms have finished), {pictures} pictures a run after {grid['steps']} steps "
        f"at batch {grid['batch_size']}; ± is half the 95 % t interval over subjects." + without
    )


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in [head, *rows]]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def _latex_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [" & ".join(map(_latex_text, row)) + r" \\" for row in [head, *rows]]
    columns = "l" + "r" * (len(head) - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", lines[0], r"\midrule", *lines[1:], r"\bottomrule",
         r"\end{tabular}"]
    )  # fmt: skip


LATEX = {"\\": r"\textbackslash{}", "−": "$-$", "–": "--", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
         "%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "<": "$<$", "$": r"\$", "{": r"\{", "}": r"\}",
         "^": r"\textasciicircum{}", "~": r"\textasciitilde{}"}  # fmt: skip


def _latex_text(text: str) -> str:
    return "".join(LATEX.get(letter, letter) for letter in text)


def _plain_ascii(text: str) -> str:
    for letter, plain in {"−": "-", "–": "-", "±": "+-"}.items():
        text = text.replace(letter, plain)
    return text
