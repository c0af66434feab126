"""The report of a comparison: one HTML file that needs nothing else, the tables as Markdown and LaTeX, plots as SVG.

FOLDER/report.html      pictures, plots and styles inside; no network
FOLDER/table.md, .tex   the headline, the scores and the primary comparisons
FOLDER/figures/*.svg    the plots, each a file of its own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from symdream.bench import figures, spectrum_figures
from symdream.bench.pictures import Album
from symdream.bench.sections import page_sections
from symdream.bench.svg import in_file, in_page, render
from symdream.bench.tables import latex, markdown
from symdream.bench.wording import headline, warnings
from symdream.files import write_text

REPORT = "report.html"
TEMPLATES = Path(__file__).parent / "templates"

# What is drawn, in the order of the page: name, who draws it, and what is to be seen.
FIGURES = (
    ("forest", figures.forest, "Difference of DINO at matched CLIP-T with its 95 % interval; a tick for each subject. "
     "Orange: the primary family. Green: not worse by more than the margin (dashed)."),
    ("tradeoff", figures.tradeoff, "DINO against CLIP-T. Lines: from the base over the checkpoints to the last step "
     "(large). Dotted: the front, which no state beats in both. Hollow, dashed: equal parameters."),
    ("at_the_end", figures.at_the_end, "The primary family after the last step, nothing matched: more DINO may have "
     "been paid for with CLIP-T."),
    ("costs", figures.costs, "DINO after the last step against what was trained and how long it took."),
    ("tuning", figures.tuning_curves, "Ring: chosen. Cross: below the floor of CLIP-T."),
    ("singular_values", spectrum_figures.singular_values, "Singular values of the updates, by size: the median over "
     "layers and subjects, the middle half shaded."),
    ("negative_shares", spectrum_figures.negative_shares, "Negative part of the update, a dot for each square layer "
     "(at most 400 shown), a line at the mean."),
    ("lambdas", spectrum_figures.lambdas, "SymLoRA's Λ in every layer, in the order of the model: blue adds, orange "
     "takes away."),
    ("by_layer", spectrum_figures.by_layer, "By layer and method, means over subjects. A block's rows are attn1 q, k, "
     "v, out, then attn2 q, k, v, out; in the text encoder k, v, q, out."),
)  # fmt: skip


def write_report(folder: Path, content: Mapping[str, Any]) -> Path:
    """Write the report of `content` (results.json with its analysis) into `folder`; returns the page's path.

    Pictures are taken from the run folders in `folder`, where there are any.
    """
    folder = Path(folder)
    lead = [headline(content), *warnings(content)]
    plots = draw(content)
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    for old in (folder / "figures").glob("*.svg"):
        old.unlink()
    for name, (svg, _) in plots.items():
        write_text(folder / "figures" / f"{name}.svg", in_file(svg))
    write_text(folder / "table.md", markdown(content, lead))
    write_text(folder / "table.tex", latex(content, lead))
    write_text(folder / REPORT, page(content, folder, lead, plots))
    return folder / REPORT


def draw(content: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """SVG and caption of every plot that there are data for."""
    found = {}
    for name, plot, caption in FIGURES:
        if (figure := plot(content)) is not None:
            found[name] = (render(figure, name), caption)
    if "lambdas" in found:
        svg, caption = found["lambdas"]
        found["lambdas"] = (svg, f"{caption} Here: {spectrum_figures.lambda_subject(content)}.")
    return found


def page(content: Mapping[str, Any], folder: Path, lead: Sequence[str], plots: Mapping[str, tuple[str, str]]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    shown = {name: None for name, _, _ in FIGURES} | {
        name: {"svg": Markup(in_page(svg, caption)), "caption": caption} for name, (svg, caption) in plots.items()
    }
    return environment.get_template("report.html").render(
        css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        headline=lead[0],
        warnings=lead[1:],
        figures=shown,
        **page_sections(content, Album(content, folder)),
    )
