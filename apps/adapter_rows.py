"""Choosing adapters: a list of what is in the runs folder, a place to drop files, and a row for each chosen one."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from symdream.data.captions import PLACEHOLDER, says
from symdream.errors import RequestError
from symdream_apps.adapters import AdapterCard, choices, made_with, read_card
from symdream_apps.context import Context
from symdream_apps.draft import Named
from symdream_apps.errors import told, warn
from symdream_apps.events import PRIVATE
from symdream_apps.shared import Shared
from symdream_apps.studio import Worn
from symdream_apps.text import no_markdown, numbered
from symdream_apps.upload import check_safetensors
from symdream_apps.wording import brief

MAX_WEIGHT = 2.0

# What a row shows is noted by the browser itself, within the limits of the slider: so a click sends what the page shows
# at that moment, and nothing typed on the way can be refused.
KEEP = """(value, strengths) => {
    const [key, name, now, low, high] = %s;
    const kept = name === "weight" ? Math.min(Math.max(value, low), high) : value;
    return {...strengths, [key]: {...now, ...strengths[key], [name]: kept}};
}"""


@dataclass
class AdapterRows:
    """`chosen`: a Dropdown of paths. `listed`: a State of what it lists, [(label, path)], set whenever that is (`shown`
    has both). `dropped`: that of Shared. `strengths`: {path: {"weight", "on"}}, kept by the browser. `redraw`: set it
    to anything new after changing strengths, so that the sliders show it."""

    chosen: gr.Dropdown
    listed: gr.State
    dropped: gr.State
    strengths: gr.JSON
    redraw: gr.State

    @property
    def shown(self) -> list[Any]:
        return [self.chosen, self.listed]


def build(
    context: Context,
    shared: Shared,
    prompt: gr.Textbox | None = None,
    *,
    weights: bool = True,
    label: str = "Adapters",
) -> AdapterRows:
    """Lay the rows out here. With `prompt`, each row has a button that inserts its trigger there.

    weights: whether rows have a slider and a switch.
    """
    tell = told(context)
    chosen = gr.Dropdown(
        [],
        value=[],
        multiselect=True,
        label=label,
        elem_classes="adapters",
        info="runs and files in the runs folder; any number",
    )
    # No file_types, here and elsewhere: one wrong file among good ones would refuse them all, in gradio's words. What
    # is no adapter, and no photo, is told by what looks at it.
    files = gr.File(label="or drop .safetensors files", file_count="multiple", height=128, elem_classes="drop-adapters")
    listed, strengths, redraw = gr.State([]), gr.JSON({}, visible=False), gr.State(0)
    rows = AdapterRows(chosen, listed, shared.dropped, strengths, redraw)

    inputs = [chosen, strengths, rows.dropped]

    @gr.render(inputs=inputs, triggers=[chosen.change, redraw.change], show_progress="hidden")
    def show(paths: list[str], known: dict[str, dict[str, Any]], dropped: list[str]) -> None:
        for path in paths or []:
            try:
                card = card_of(context, path, dropped)
            except RequestError as error:
                gr.Markdown(f"**{no_markdown(Path(path).name)}**: {no_markdown(brief(error, context.runs))}")
                continue
            _row(card, known, strengths, prompt, weights)

    files.upload(
        tell(lambda sent, have, dropped: (None, *accept(context, sent, have, dropped))),
        [files, chosen, rows.dropped],
        [files, *rows.shown, rows.dropped],
        **PRIVATE,
    )
    return rows


def keep_up(context: Context, shared: Shared, rows: AdapterRows, tab: gr.Tab) -> None:
    """Let the list be as new as the page, and as the last time that `tab` was selected or the list opened."""
    at_once = {"outputs": rows.shown, "queue": False, **PRIVATE}
    # What it was built with would be as old as the app.
    shared.draft.first(lambda: anew(context, [], []), rows.shown)
    now = [rows.chosen, rows.dropped]
    tab.select(lambda chosen, dropped: anew(context, chosen, dropped), now, **at_once)
    rows.chosen.focus(
        lambda chosen, dropped, before: longer(context, chosen, dropped, before), [*now, rows.listed], **at_once
    )


def _row(
    card: AdapterCard,
    known: dict[str, dict[str, Any]],
    strengths: gr.JSON,
    prompt: gr.Textbox | None,
    weights: bool,
) -> None:
    """One chosen adapter: name and facts, on or off, weight, trigger."""
    key = str(card.path)
    now = known.get(key, {"weight": card.weight, "on": True})
    low, high = min(0, now["weight"]), max(MAX_WEIGHT, now["weight"])
    with gr.Column(variant="panel", elem_classes="adapter-row"):
        gr.Markdown(f"**{no_markdown(card.name)}** · {no_markdown(card.line())}")
        if not weights:
            return
        with gr.Row(equal_height=True):
            on = gr.Checkbox(now["on"], label="on", scale=1, min_width=64, interactive=True, elem_classes="adapter-on")
            weight = gr.Slider(
                low, high, value=now["weight"], step=0.05,
                label=f"Weight of {card.name}", scale=5, min_width=180, interactive=True, elem_classes="adapter-weight",
            )  # fmt: skip
        if prompt is not None and card.words:
            insert = gr.Button(f'Insert "{card.words}" into the prompt', size="sm", elem_classes="insert-trigger")
            insert.click(lambda text: insert_words(text, card), prompt, prompt, queue=False, **PRIVATE)

    for name, control in (("on", on), ("weight", weight)):
        control.change(None, [control, strengths], strengths, js=KEEP % json.dumps([key, name, now, low, high]))


def insert_words(prompt: str, card: AdapterCard) -> str:
    """The prompt with the adapter's words in it: in place of {subject}, before its class noun, or at the end."""
    if PLACEHOLDER in prompt:
        return prompt.replace(PLACEHOLDER, card.words)
    if says(prompt, card.words):
        return prompt
    if card.class_noun and (found := re.search(rf"\b{re.escape(card.class_noun)}\b", prompt)):
        return prompt[: found.start()] + card.words + prompt[found.end() :]
    return f"{prompt.rstrip()} {card.words}".strip()


def offered(context: Context, chosen: list[str] | None, dropped: list[str]) -> list[tuple[str, str]]:
    """What the dropdown lists: the adapters in the runs folder, the dropped files, and whatever else is chosen."""
    listed = choices(context)
    known = {path for _, path in listed}
    others = dict.fromkeys([*(path for path in dropped if Path(path).exists()), *(chosen or [])])
    names = names_of(context, dropped)
    return listed + [(names.get(path, Path(path).name), path) for path in others if path not in known]


def names_of(context: Context, dropped: list[str]) -> dict[str, str]:
    """{path: what the pages call it} of dropped files. Those of one name are numbered in the order in which they came,
    and so are those whose name something in the runs folder has."""
    names = [Path(path).name for path in dropped]
    return dict(zip(dropped, numbered(names, {x for x in names if (context.runs / x).exists()}), strict=True))


def anew(context: Context, chosen: list[str] | None, dropped: list[str]) -> tuple[Any, list[tuple[str, str]]]:
    """The dropdown with what it lists now, and that list."""
    now = offered(context, chosen, dropped)
    return gr.Dropdown(choices=now), now


def choose(context: Context, paths: list[str], dropped: list[str]) -> tuple[Any, list[tuple[str, str]]]:
    """`anew` with these adapters chosen."""
    now = offered(context, paths, dropped)
    return gr.Dropdown(choices=now, value=paths, multiselect=True), now


def bring_back(context: Context, paths: list[str], files: Named) -> tuple[Any, list[tuple[str, str]]]:
    """`choose` what was chosen before the page was loaded again; what is gone is added to `files.missing`."""
    found = []
    for path in paths:
        try:
            read_card(context, path)
            found.append(path)
        except (RequestError, OSError):
            files.missing.append(Path(path).name)
    return choose(context, found, files.dropped)


def longer(
    context: Context, chosen: list[str] | None, dropped: list[str], before: list[tuple[str, str]]
) -> tuple[Any, Any]:
    """`anew` for a list that is open, where somebody may be about to click: what is new comes at its end, and what was
    there keeps its place, though it may be gone."""
    known = {path for _, path in before}
    new = [entry for entry in offered(context, chosen, dropped) if entry[1] not in known]
    return (gr.Dropdown(choices=[*before, *new]), [*before, *new]) if new else (gr.skip(), gr.skip())


def accept(
    context: Context, sent: list[str] | None, have: list[str], dropped: list[str]
) -> tuple[Any, list[tuple[str, str]], list[str]]:
    """`choose` dropped files, checked, beside those that are chosen; what is no adapter is told and left out. And all
    that were dropped so far."""
    paths = []
    for file in sent or []:
        try:
            paths.append(str(read_card(context, check_safetensors(Path(file))).path))
        except RequestError as error:
            warn(context, error)
    dropped = list(dict.fromkeys([*dropped, *paths]))
    return *choose(context, list(dict.fromkeys([*have, *paths])), dropped), dropped


def worn(context: Context, chosen: list[str], strengths: dict[str, dict[str, Any]]) -> list[Worn]:
    """The chosen adapters that are on, with their weights. Raises: RequestError if one is not there any more."""
    on = []
    for path in chosen or []:
        now = strengths.get(path)
        if now is None or now["on"]:
            card = card_of(context, path, [])
            on.append(Worn(card.path, float(card.weight if now is None else now["weight"])))
    return on


def card_of(context: Context, path: str, dropped: list[str]) -> AdapterCard:
    """`read_card` of an adapter that is chosen on a page, with the name that it has there. Raises: RequestError as it
    does, with what to do there."""
    try:
        card = read_card(context, path)
    except RequestError as error:  # deleted meanwhile, as a rule
        raise RequestError(error.what, where=error.where, fix="take it out of the chosen adapters") from None
    return replace(card, name=names_of(context, dropped).get(path, card.name))


def remembered(context: Context, adapters: list[dict[str, Any]], dropped: list[str]) -> dict[str, float]:
    """{path: weight} of the adapters that a picture's settings name; those that are gone are told and left out."""
    found, missing = {}, []
    for entry in adapters:
        try:
            path = str(made_with(context, entry, dropped))
            read_card(context, path)
        except RequestError:
            missing.append(str(entry["name"]))
            continue
        found[path] = float(entry.get("weight", 1))
    if missing:
        gr.Warning(
            f"Left out: {html.escape(', '.join(missing))}. Not in the runs folder, and no dropped file is the same: "
            "drop the file again to use it."
        )
    return found
