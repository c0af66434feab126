"""A matplotlib figure as SVG: in the page with its colours (light or dark), and as a file of its own (always light)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

# Placeholders: colours that no plot uses, exchanged for the page's or the file's.
INK, FAINT, BAND, PAPER = "#0b0c0d", "#8a8b8c", "#b9babb", "#fdfefd"
IN_PAGE = {INK: "var(--ink)", FAINT: "var(--faint)", BAND: "var(--band)", PAPER: "none"}
IN_FILE = {INK: "#1b1d1f", FAINT: "#c9ccd0", BAND: "#dcebe2", PAPER: "#ffffff"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own font
    "font.size": 8.5,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.4,
    "grid.alpha": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}


def new_figure(width: float, height: float) -> Any:
    """A figure of inches; its size is that of a phone's screen, so that text keeps its size there."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        return Figure(figsize=(width, height), layout="constrained")


def styled() -> Any:
    """A context in which axes are made and drawn in STYLE."""
    import matplotlib

    return matplotlib.rc_context(STYLE)


def render(figure: Any, name: str) -> str:
    """The figure's SVG with placeholders; ids begin with `name`, so that several live in one page."""
    import matplotlib

    stream = io.StringIO()
    with matplotlib.rc_context(STYLE | {"svg.hashsalt": name}):
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", text)
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)


def in_page(svg: str, title: str) -> str:
    """To be put into HTML: no prologue, no fixed size, the page's colours."""
    body = svg[svg.index("<svg") :]
    head, rest = body.split(">", 1)
    width = float(re.search(r'width="([\d.]+)pt"', head)[1])
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    head += f' role="img" aria-label="{html.escape(title)}" style="max-width: {width * 1.9:.0f}px"'
    return _exchange(f"{head}>{rest}", IN_PAGE)


def in_file(svg: str) -> str:
    return _exchange(svg, IN_FILE)


def _exchange(svg: str, colours: dict[str, str]) -> str:
    for placeholder, colour in colours.items():
        svg = svg.replace(placeholder, colour)
    return svg


def legend_below(figure: Any, axes: Any, columns: int, handles: Sequence[Any] | None = None) -> None:
    options = {"handles": handles} if handles else {"handles": axes.get_legend_handles_labels()[0]}
    figure.legend(loc="outside lower center", ncols=columns, handlelength=1.6, columnspacing=1.2, **options)
