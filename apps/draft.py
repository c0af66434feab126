"""What stands in the boxes of the pages: the browser's tab keeps it, and a page that is loaded again has it back."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from symdream.errors import RequestError
from symdream_apps.adapters import read_card
from symdream_apps.context import Context
from symdream_apps.errors import told
from symdream_apps.events import PRIVATE

# sessionStorage is that of one tab and goes with it. A browser that keeps nothing, or no more, has no draft. Components
# change as the page is built, too: nothing is kept before what was kept is back.
KEEP = """(...values) => {
    const [key, names] = %s;
    if (!window.symdreamIsBack) return;
    try {
        sessionStorage.setItem(key, JSON.stringify(Object.fromEntries(names.map((name, i) => [name, values[i]]))));
    } catch {}
}"""
# Without a draft the boxes are left alone: whoever types at once would be overwritten by what they had.
FETCH = """() => {
    const kept = {};
    for (const [page, key] of Object.entries(%s)) {
        try {
            const values = JSON.parse(sessionStorage.getItem(key));
            if (values) kept[page] = values;
        } catch {}
    }
    window.symdreamIsBack = Object.keys(kept).length === 0;
    return [window.symdreamIsBack ? "" : JSON.stringify(kept)];
}"""
IS_BACK = "() => { window.symdreamIsBack = true; }"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Named:
    """Files that a draft names. `dropped`: adapters that were dropped and are there still, as they came; `missing`: the
    names of what was chosen and is gone."""

    dropped: list[str]
    missing: list[str]


@dataclass(frozen=True)
class _Page:
    key: str
    bring_back: Callable[[Values, Named], Sequence[Any]]
    outputs: list[Any]


class Draft:
    """Pages `add` themselves as they are built; `connect` ends it, once all are. dropped: that of Shared."""

    def __init__(self, context: Context, dropped: gr.State):
        self.context, self.dropped = context, dropped
        self._pages: dict[str, _Page] = {}
        self._first: list[tuple[Callable[[], Sequence[Any]], list[Any]]] = []
        copy = gr.JSON([], visible=False)  # of a state, which no browser sees
        dropped.change(lambda paths: paths, dropped, copy, **PRIVATE)
        self.add("dropped", {"paths": copy}, self._bring_back_dropped, [copy])

    def first(self, function: Callable[[], Sequence[Any]], outputs: list[Any]) -> None:
        """What is set as the page is loaded, before any draft."""
        self._first.append((function, outputs))

    def add(
        self,
        page: str,
        components: Mapping[str, Any],
        bring_back: Callable[[Values, Named], Sequence[Any]],
        outputs: list[Any],
    ) -> None:
        """Keep `components` by their names. `bring_back(values, files)` gives the outputs from what the browser has of
        them, and notes in `files` what the draft names."""
        # With the names: what an app of another version left is none of this one's.
        key = f"symdream {page}: {' '.join(components)}"
        self._pages[page] = _Page(key, bring_back, outputs)
        gr.on(
            [component.change for component in components.values()],
            None,
            list(components.values()),
            js=KEEP % json.dumps([key, list(components)]),
            api_visibility="private",
        )

    def _bring_back_dropped(self, kept: Values, files: Named) -> list[list[str]]:
        for path in kept["paths"]:
            with suppress(RequestError, OSError):  # gone; where it is chosen, that is told
                if read_card(self.context, path).path.is_relative_to(self.context.uploads):
                    files.dropped.append(path)
        return [files.dropped]

    def connect(self) -> None:
        """As the page is loaded, bring back what is kept, and from then on keep it."""
        # A text: JSON components change whenever they are set, and nothing is to happen where nothing is kept.
        tell, kept, missing = told(self.context), gr.Textbox("", visible=False), gr.State([])
        loaded = gr.on(
            None,
            tell(lambda: [value for function, _ in self._first for value in function()]),
            outputs=[output for _, outputs in self._first for output in outputs],
            queue=False,
            **PRIVATE,
        )
        keys = {name: page.key for name, page in self._pages.items()}
        loaded.then(None, None, kept, js=FETCH % json.dumps(keys), api_visibility="private")
        outputs = [output for page in self._pages.values() for output in page.outputs]
        back = kept.change(
            tell(lambda text: self.bring_back(json.loads(text))),
            kept,
            [*outputs, self.dropped, missing],
            queue=False,
            **PRIVATE,
        )
        # Not after a failure: what the browser has may come back the next time.
        back.success(None, js=IS_BACK, api_visibility="private").then(tell_missing, missing, **PRIVATE)

    def bring_back(self, kept: Mapping[str, Values]) -> list[Any]:
        files, given = Named([], []), []
        for name, page in self._pages.items():
            values = [gr.skip()] * len(page.outputs)
            try:
                if name in kept:
                    values = page.bring_back(kept[name], files)
            except (AttributeError, KeyError, TypeError, ValueError):  # whatever the browser has
                self.context.log.exception("the draft of the page %s is not legible", name)
            given += values
        return [*given, files.dropped, files.missing]


def sent_before(context: Context, files: Sequence[Values] | Values | None, noted: Named) -> list[str]:
    """The paths of a File's `files` that are there still; the others' names are added to `noted.missing`.

    Only what was sent to the app: it is served to whoever names it, and the browser names it.
    """
    paths = []
    for file in [files] if isinstance(files, Mapping) else files or []:
        with suppress(RequestError):
            path = context.check_path(file["path"])
            if path.is_relative_to(context.uploads) and path.is_file():
                paths.append(str(path))
                continue
        noted.missing.append(str(file.get("orig_name") or Path(file["path"]).name))
    return paths


def tell_missing(names: list[str]) -> None:
    if names:
        listed = html.escape(", ".join(dict.fromkeys(names)))
        gr.Warning(f"Not brought back, since not here any more: {listed}.")
