"""The report's plots of what was learned: singular values by layer and method, signs of eigenvalues and of Λ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from symdream.bench.figures import COLOURS, WIDTH, Content, look
from symdream.bench.svg import FAINT, INK, legend_below, new_figure, styled

COMPONENT_NAMES = {"unet": "UNet", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}


def spectra_of(content: Content) -> dict[str, list[list[Mapping[str, Any]]]]:
    """The spectra by arm, one list of layers for each cell that kept one."""
    arms: dict[str, list[list[Mapping[str, Any]]]] = {arm["id"]: [] for arm in content["grid"]["arms"]}
    for cell in content["cells"]:
        if cell["status"] == "finished" and cell["spectrum"] and cell["arm"] in arms:
            arms[cell["arm"]].append(cell["spectrum"])
    return {arm: cells for arm, cells in arms.items() if cells}


def singular_values(content: Content) -> Any | None:
    """The median over layers and subjects of the i-th singular value, with the middle half of them shaded."""
    spectra = spectra_of(content)
    if not spectra:
        return None
    components = list(dict.fromkeys(entry["component"] for cells in spectra.values() for entry in cells[0]))
    with styled():
        figure = new_figure(WIDTH, 3.4)
        sides = figure.subplots(1, len(components), sharey=True, squeeze=False)[0]
        for axes, component in zip(sides, components, strict=True):
            for arm in _arms(content, spectra):
                low, middle, high = zip(*_quartiles(_layers(spectra[arm["id"]], component)), strict=True)
                ranks = range(1, len(middle) + 1)
                axes.plot(ranks, middle, **look(arm), markersize=3)
                axes.fill_between(ranks, low, high, color=COLOURS[arm["method"]], alpha=0.1, linewidth=0)
            axes.set(yscale="log", xlabel="singular value")
            axes.set_title(COMPONENT_NAMES.get(component, component))
        sides[0].set_ylabel("size")
        legend_below(figure, sides[0], 3)
    return figure


def by_layer(content: Content) -> Any | None:
    """Two heat maps, layers × arms, means over subjects: the largest singular value, and the effective rank."""
    spectra = spectra_of(content)
    if not spectra:
        return None
    import numpy as np

    arms = _arms(content, spectra)
    layers = spectra[arms[0]["id"]][0]
    blocks = [block_name(entry) for entry in layers]
    starts = [i for i, block in enumerate(blocks) if i == 0 or block != blocks[i - 1]]
    largest, effective = (
        np.array([[fmean(value(cell[i]) for cell in spectra[arm["id"]]) for arm in arms] for i in range(len(layers))])
        for value in (lambda e: max(e["singular_values"], default=0.0), lambda e: e["effective_rank"])
    )
    with styled():
        figure = new_figure(WIDTH, 1.7 + max(0.05 * len(layers), 0.13 * len(starts)))
        sides = figure.subplots(1, 2, sharey=True)
        titles = ("largest singular value", "effective rank")
        for axes, values, title in zip(sides, (largest, effective), titles, strict=True):
            picture = axes.imshow(values, aspect="auto", cmap="viridis", interpolation="nearest")
            axes.set_xticks(range(len(arms)), [arm["label"] for arm in arms], rotation=90)
            axes.set_title(title)
            axes.grid(visible=False)
            bar = figure.colorbar(picture, ax=axes, location="bottom", pad=0.02, aspect=14)
            bar.outline.set_visible(False)
        sides[0].set_yticks([i - 0.5 for i in starts], [blocks[i] for i in starts], fontsize=7, va="top")
    return figure


def negative_shares(content: Content) -> Any | None:
    """The part of each square layer's update that is negative: every layer a dot, the arm's mean a line."""
    spectra = spectra_of(content)
    shares = {
        arm["id"]: [e["eigen_negative_share"] for cell in spectra[arm["id"]] for e in cell
                    if e["eigen_negative_share"] is not None]
        for arm in _arms(content, spectra)
    }  # fmt: skip
    arms = [arm for arm in _arms(content, spectra) if shares[arm["id"]]]
    if not arms:
        return None
    import numpy as np

    random = np.random.default_rng(0)
    with styled():
        figure = new_figure(WIDTH, 0.9 + 0.32 * len(arms))
        axes = figure.subplots()
        for place, arm in enumerate(reversed(arms)):
            values = np.array(shares[arm["id"]])
            shown = random.permutation(values)[:400]
            style = {"color": COLOURS[arm["method"]], "markeredgewidth": 0}
            axes.plot(shown, place + random.uniform(-0.28, 0.28, len(shown)), ".", alpha=0.35, markersize=3.5, **style)
            axes.plot([values.mean()] * 2, [place - 0.38, place + 0.38], color=INK, linewidth=1.6)
        axes.set_yticks(range(len(arms)), [arm["label"] for arm in reversed(arms)])
        axes.set(xlim=(-0.03, 1.03), xlabel="negative part of the update (square layers)")
        axes.axvline(0.5, color=FAINT, linewidth=0.8)
        axes.grid(axis="y", visible=False)
    return figure


def lambdas(content: Content) -> Any | None:
    """SymLoRA's Λ · alpha / r of every layer in order, of the first subject that has it, with its signs."""
    found = next(_with_lambda(content), None)
    if found is None:
        return None
    _, entries = found
    with styled():
        figure = new_figure(WIDTH, 2.6)
        axes = figure.subplots()
        for place, entry in enumerate(entries):
            for value in entry["lambda"]:
                colour = COLOURS["singlora"] if value < 0 else COLOURS["symlora"]
                axes.plot(place, value, ".", color=colour, markersize=3)
        axes.axhline(0, color=INK, linewidth=0.8)
        edges = [i for i in range(1, len(entries)) if entries[i]["component"] != entries[i - 1]["component"]]
        for edge in edges:
            axes.axvline(edge - 0.5, color=FAINT, linewidth=0.8)
        axes.set(xlabel="layer: " + ", then ".join(_components(entries)), ylabel="Λ · alpha / r")
    return figure


def spectrum_rows(content: Content) -> list[dict[str, Any]]:
    """One row an arm for the report's table; means over layers and subjects."""
    rows, spectra = [], spectra_of(content)
    for arm in _arms(content, spectra):
        entries = [entry for cell in spectra[arm["id"]] for entry in cell]
        shares = [e["eigen_negative_share"] for e in entries if e["eigen_negative_share"] is not None]
        values = [v for e in entries for v in e.get("lambda") or []]
        size = sum(map(abs, values))
        rows.append({
            "label": arm["label"],
            "rank": arm["rank"],
            "cells": len(spectra[arm["id"]]),
            "largest": median(max(e["singular_values"], default=0.0) for e in entries),
            "effective_rank": fmean(e["effective_rank"] for e in entries),
            "negative": fmean(shares) if shares else None,
            "lambda_negative": sum(-v for v in values if v < 0) / size if size else None,
        })  # fmt: skip
    return rows


def lambda_subject(content: Content) -> str | None:
    """Whose Λ `lambdas` shows."""
    found = next(_with_lambda(content), None)
    return found[0] if found else None


def block_name(entry: Mapping[str, Any]) -> str:
    """down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q -> down 1.0.0"""
    name = entry["layer"].removeprefix("text_model.encoder.").split(".attn")[0].split(".self_attn")[0]
    parts = name.replace("_blocks", "").replace("_block", "").split(".")
    numbers = [part for part in parts[1:] if part.isdigit()]
    where = "text " if entry["component"] != "unet" else ""
    return f"{where}{parts[0].replace('layers', 'layer')} {'.'.join(numbers)}"


def _with_lambda(content: Content) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    labels = {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}
    for cell in content["cells"]:
        entries = [e for e in cell["spectrum"] or [] if e.get("lambda")]
        if entries:
            yield f"{labels.get(cell['arm'], cell['arm'])} on {cell['subject']}", entries


def _components(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(COMPONENT_NAMES.get(e["component"], e["component"]) for e in entries))


def _arms(content: Content, spectra: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [arm for arm in content["grid"]["arms"] if arm["id"] in spectra]


def _layers(cells: Sequence[Sequence[Mapping[str, Any]]], component: str) -> list[list[float]]:
    return [e["singular_values"] for cell in cells for e in cell if e["component"] == component]


def _quartiles(rows: Sequence[Sequence[float]]) -> list[tuple[float, float, float]]:
    import numpy as np

    length = max(map(len, rows))
    table = np.array([[*row, *[0.0] * (length - len(row))] for row in rows])
    # On a logarithmic axis nothing is drawn at 0.
    return [tuple(max(v, 1e-12) for v in np.quantile(column, (0.25, 0.5, 0.75))) for column in table.T]
