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
FETCH = """() => {
    const kept = {};
    for (const [page, key] of Object.entries(%s)) {
        try { kept[page] = JSON.parse(sessionStorage.getItem(key)); } catch { kept[page] = null; }
    }
    return [kept];
}"""
IS_BACK = "() => { window.symdreamIsBack = true; }"

Values = Mapping[str, Any]


@dataclass(frozen=True)
class Named:
    """Files that a draft names. `dropped`: adapters that were dropped and are there still, as they came; `missing`: the
    names of what was chosen and is gone."""

    dropped: list[str]
    missing: list[str]


class Draft:
    """Pages `add` themselves as they are built; `connect` ends it, once all are. dropped: that of Shared."""

    def __init__(self, context: Context, dropped: gr.State):
        self.context, self.dropped = context, dropped
        self._keys: dict[str, str] = {}
        self._bring_back: dict[str, Callable[[Values | None, Named], tuple]] = {}
        self._outputs: list[Any] = []
        copy = gr.JSON([], visible=False)  # of a state, which no browser sees
        dropped.change(lambda paths: paths, dropped, copy, **PRIVATE)
        self.add("dropped", {"paths": copy}, self._bring_back_dropped, [copy])

    def add(
        self,
        page: str,
        components: Mapping[str, Any],
        bring_back: Callable[[Values | None, Named], tuple],
        outputs: list[Any],
    ) -> None:
        """Keep `components` by their names. `bring_back(values, files)` gives the outputs from what the browser has of
        them, None where that is nothing, and notes in `files` what the draft names."""
        # With the names: what an app of another version left is none of this one's.
        self._keys[page] = f"symdream {page}: {' '.join(components)}"
        self._bring_back[page] = bring_back
        self._outputs += outputs
        gr.on(
            [component.change for component in components.values()],
            None,
            list(components.values()),
            js=KEEP % json.dumps([self._keys[page], list(components)]),
            api_visibility="private",
        )

    def _bring_back_dropped(self, kept: Values | None, files: Named) -> tuple[list[str]]:
        for path in kept["paths"] if kept else []:
            with suppress(RequestError, OSError):  # gone; where it is chosen, that is told
                if read_card(self.context, path).path.is_relative_to(self.context.uploads):
                    files.dropped.append(path)
        return (files.dropped,)

    def connect(self) -> None:
        """As the page is loaded, bring back what is kept, and from then on keep it."""
        kept, missing = gr.JSON(visible=False), gr.State([])
        back = gr.on(
            None, told(self.context)(self.bring_back), kept, [*self._outputs, self.dropped, missing],
            js=FETCH % json.dumps(self._keys), queue=False, **PRIVATE,
        )  # fmt: skip
        # Not after a failure: what the browser has may come back the next time.
        back.success(None, js=IS_BACK, api_visibility="private").then(tell_missing, missing, **PRIVATE)

    def bring_back(self, kept: Mapping[str, Values | None] | None) -> tuple:
        files, given = Named([], []), []
        for page, back in self._bring_back.items():
            try:
                given += back((kept or {}).get(page), files)
            except (AttributeError, KeyError, TypeError, ValueError):  # whatever the browser has, the page must come
                self.context.log.exception("the draft of the page %s is not legible", page)
                given += back(None, files)
        return *given, files.dropped, files.missing


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
