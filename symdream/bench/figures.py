"""The report's plots of scores: forest, DINO against CLIP-T, costs, tuning. Each takes results.json's content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from symdream.bench.comparisons import EQUAL_PARAMETERS, MATCHED, PRIMARY
from symdream.bench.endpoint import front
from symdream.bench.svg import BAND, FAINT, INK, PAPER, legend_below, new_figure, styled

Content = Mapping[str, Any]
# Told apart with any kind of colour blindness, on white and on black (after Okabe and Ito).
COLOURS = {"lora": "#7d858c", "lora+": "#d99000", "dora": "#009e73", "singlora": "#d55e00", "symlora": "#3f8fd0"}
MARKERS = {"lora": "o", "lora+": "s", "dora": "^", "singlora": "D", "symlora": "v"}
WIDTH = 4.5


def labels(content: Content) -> dict[str, str]:
    return {arm["id"]: arm["label"] for arm in content["grid"]["arms"]}


def look(arm: Mapping[str, Any]) -> dict[str, Any]:
    """Colour and marker of an arm; hollow and dashed at equal parameters."""
    hollow = arm["role"] == EQUAL_PARAMETERS
    colour = COLOURS[arm["method"]]
    return {"color": colour, "marker": MARKERS[arm["method"]], "linestyle": "--" if hollow else "-",
            "markerfacecolor": PAPER if hollow else colour, "label": arm["label"]}  # fmt: skip


def forest_rows(content: Content) -> list[Mapping[str, Any]]:
    """The comparisons at matched CLIP-T that have data: the primary family, then ours at equal parameters, the rest."""
    arms = {arm["id"]: (place, arm) for place, arm in enumerate(content["grid"]["arms"])}

    def order(entry: Mapping[str, Any]) -> tuple[Any, ...]:
        place, ours = arms[entry["arm"]]
        same = ours["method"] == content["grid"]["primary"]["method"]
        return entry["family"] != PRIMARY, not same, -place if same else place, arms[entry["against"]][0]

    return sorted((e for e in content["paired"] if e["endpoint"] == MATCHED and e["mean"] is not None), key=order)


def forest(content: Content) -> Any | None:
    """Mean difference, 95 % interval and every subject of each comparison; the shaded side of the margin is good."""
    rows = forest_rows(content)
    if not rows:
        return None
    names = labels(content)
    with styled():
        figure = new_figure(WIDTH, 1.1 + 0.23 * len(rows))
        axes = figure.subplots()
        places = list(range(len(rows)))[::-1]
        margin = rows[0]["margin"]
        edges = [v for e in rows for v in (*e["subjects"].values(), e["low"], e["high"]) if v is not None]
        room = 0.05 * (max(edges) - min(edges) or 0.1)
        axes.set_xlim(min([*edges, -(margin or 0)]) - room, max([*edges, 0]) + room)
        if margin:
            axes.axvspan(-margin, axes.get_xlim()[1], color=BAND, alpha=0.45, linewidth=0, zorder=0)
            axes.axvline(-margin, color=FAINT, linewidth=1, linestyle="--")
        axes.axvline(0, color=INK, linewidth=0.8)
        for place, entry in zip(places, rows, strict=True):
            primary = entry["family"] == PRIMARY
            colour = COLOURS["singlora"] if primary else INK
            values = list(entry["subjects"].values())
            axes.plot(values, [place] * len(values), "|", color=FAINT, markersize=5, zorder=1)
            if entry["low"] is not None:
                axes.plot([entry["low"], entry["high"]], [place] * 2, color=colour, linewidth=2.2 if primary else 1.3)
            axes.plot(entry["mean"], place, "s" if primary else "o", color=colour, markersize=5 if primary else 4)
        axes.set_yticks(places, [f"{names[e['arm']]} − {names[e['against']]}" for e in rows])
        axes.set_ylim(-0.7, len(rows) - 0.3)
        primaries = sum(e["family"] == PRIMARY for e in rows)
        if 0 < primaries < len(rows):
            axes.axhline(len(rows) - primaries - 0.5, color=FAINT, linewidth=0.8)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("difference of DINO at matched CLIP-T")
    return figure


def at_the_end(content: Content) -> Any | None:
    """The primary pairs' plain differences after the last step: DINO and CLIP-T side by side."""
    family = [(e["arm"], e["against"]) for e in content["paired"] if e["family"] == PRIMARY]
    found = {(e["endpoint"], e["arm"], e["against"]): e for e in content["paired"] if e["mean"] is not None}
    pairs = [pair for pair in family if ("dino", *pair) in found]
    if not pairs:
        return None
    names = labels(content)
    with styled():
        figure = new_figure(WIDTH, 1.0 + 0.26 * len(pairs))
        sides = figure.subplots(1, 2, sharey=True)
        for axes, endpoint, title in zip(sides, ("dino", "clip_t"), ("DINO", "CLIP-T"), strict=True):
            axes.axvline(0, color=INK, linewidth=0.8)
            for place, pair in enumerate(reversed(pairs)):
                entry = found[endpoint, *pair]
                if entry["low"] is not None:
                    axes.plot([entry["low"], entry["high"]], [place] * 2, color=COLOURS["singlora"], linewidth=2)
                axes.plot(entry["mean"], place, "s", color=COLOURS["singlora"])
            axes.set_title(title)
            axes.set_ylim(-0.6, len(pairs) - 0.4)
            axes.grid(axis="y", visible=False)
        sides[0].set_yticks(range(len(pairs)), [f"{names[a]} − {names[b]}" for a, b in reversed(pairs)])
        figure.supxlabel("difference after the last step", fontsize=8.5)
    return figure


def tradeoff(content: Content) -> Any | None:
    """DINO against CLIP-T: every arm's path over its checkpoints from the base's point, and the front of all states."""
    analysis = content["analysis"]
    arms = [arm for arm in content["grid"]["arms"] if analysis["arms"][arm["id"]]]
    base = analysis["references"].get("base")
    if not arms:
        return None
    with styled():
        figure = new_figure(WIDTH, 4.1)
        axes = figure.subplots()
        states = []
        for arm in arms:
            path = [(p["clip_t"], p["dino"]) for p in analysis["arms"][arm["id"]]["path"]]
            states += path
            whole = [(base["clip_t"], base["dino"]), *path] if base else path
            style = look(arm)
            axes.plot(*zip(*whole, strict=True), **style | {"marker": None, "label": None}, linewidth=1.0, alpha=0.8)
            axes.plot(*zip(*path, strict=True), **style | {"linestyle": "none", "label": None}, markersize=3.2)
            axes.plot(*path[-1], **style | {"linestyle": "none"}, markersize=7.5)
        if base:
            axes.plot(base["clip_t"], base["dino"], "*", color=INK, markersize=9, label="base")
        axes.step(*zip(*front(states), strict=True), where="post", color=INK, linewidth=0.9, linestyle=":",
                  label="front")  # fmt: skip
        axes.set(xlabel="CLIP-T: what the prompt asks for →", ylabel="DINO: how like the subject →")
        legend_below(figure, axes, 3)
    return figure


def costs(content: Content) -> Any | None:
    """DINO after the last step against trained parameters and against seconds of training."""
    analysis = content["analysis"]
    arms = [arm for arm in content["grid"]["arms"] if analysis["arms"][arm["id"]]]
    if not arms:
        return None
    steps = content["grid"]["steps"]
    with styled():
        figure = new_figure(WIDTH, 3.2)
        left, right = figure.subplots(1, 2, sharey=True)
        for arm in arms:
            row = analysis["arms"][arm["id"]]
            dino = row["scores"]["dino"]
            half = [[dino["mean"] - dino["low"]], [dino["high"] - dino["mean"]]] if dino["low"] is not None else None
            style = look(arm) | {"linestyle": "none"}
            step = row["seconds_per_step"]
            places = (row["parameters"] / 1e3, None if step is None else step * steps)
            for axes, x in zip((left, right), places, strict=True):
                if x is None:
                    continue
                axes.errorbar(x, dino["mean"], yerr=half, elinewidth=0.7, **style)
        left.set(xlabel="trained parameters (thousands)", ylabel="DINO, 95 % interval over subjects")
        right.set(xlabel="seconds of training")
        for axes in (left, right):  # from 0 on; with room for the last marker, of which the values alone leave none
            axes.set_xlim(0, 1.08 * axes.dataLim.x1 if axes.has_data() else None)
        legend_below(figure, left, 3)
    return figure


def tuning_curves(content: Content) -> Any | None:
    """DINO on the tuning subjects against lr; crossed where the CLIP-T floor is broken, ringed where chosen."""
    trials: dict[tuple[str, float], dict[float, list[Mapping[str, Any]]]] = {}
    for trial in content["tuning"]:
        if trial["scores"] is not None and trial["objective"] is not None:
            trials.setdefault((trial["arm"], trial["alpha"]), {}).setdefault(trial["lr"], []).append(trial)
    arms = {arm["id"]: arm for arm in content["grid"]["arms"]}
    trials = {key: found for key, found in trials.items() if key[0] in arms}
    if not trials:
        return None
    with styled():
        figure = new_figure(WIDTH, 3.9)
        axes = figure.subplots()
        labelled = set()
        for (name, _), found in trials.items():
            style = look(arms[name])
            rates = sorted(found)
            dino = [sum(t["scores"]["dino"] for t in found[lr]) / len(found[lr]) for lr in rates]
            label = None if name in labelled else style["label"]
            labelled.add(name)
            axes.plot(rates, dino, **style | {"label": label}, markersize=5)
            for lr, value in zip(rates, dino, strict=True):
                if found[lr][0]["objective"] <= -1:
                    axes.plot(lr, value, "x", color=style["color"], markersize=9)
                if found[lr][0]["chosen"]:
                    axes.plot(lr, value, "o", color=style["color"], markerfacecolor="none", markersize=11)
        axes.plot([], [], "o", color="gray", markerfacecolor="none", markersize=11, label="chosen")
        axes.plot([], [], "x", color="gray", markersize=9, label="CLIP-T below the floor")
        axes.set(xscale="log", xlabel="learning rate", ylabel="DINO on the tuning subjects")
        low, high = axes.get_xlim()
        ticks = [t * 10**e for e in range(-9, 3) for t in (1, 3) if low <= t * 10**e <= high]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        legend_below(figure, axes, 3)
    return figure
