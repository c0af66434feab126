"""Before and after: two variants of one picture under a slider."""

from __future__ import annotations

from typing import Any

import gradio as gr

from symdream_apps.context import Context
from symdream_apps.errors import told
from symdream_apps.events import PRIVATE
from symdream_apps.history import served


class Slider:
    """The components, laid out where this is made."""

    def __init__(self, context: Context) -> None:
        self.context = context
        with gr.Row():
            self.before = gr.Dropdown([], label="Left", min_width=130, elem_id="before")
            self.after = gr.Dropdown([], label="Right", min_width=130, elem_id="after")
            self.which = gr.Dropdown([], label="Picture", min_width=180, scale=2)
        self.pictures = gr.ImageSlider(
            label="Move the slider; or focus it and use the arrow keys",
            interactive=False,
            format="png",
            elem_id="slider",
            buttons=["fullscreen"],
            max_height=560,
        )

    def connect(self, result: gr.State) -> None:
        choices, show = [self.before, self.after, self.which], told(self.context)(self.show)
        result.change(self.offer, result, choices, **PRIVATE).then(show, [result, *choices], self.pictures, **PRIVATE)
        for choice in choices:
            choice.input(show, [result, *choices], self.pictures, queue=False, **PRIVATE)

    def offer(self, result: dict[str, Any] | None) -> tuple:
        if not result:
            return tuple(gr.Dropdown(choices=[], value=None) for _ in range(3))
        variants = [(column, i) for i, column in enumerate(result["columns"])]
        rows = [(f"{row['prompt']} · seed {row['seed']}", i) for i, row in enumerate(result["rows"])]
        return (
            gr.Dropdown(choices=variants, value=0),
            gr.Dropdown(choices=variants, value=len(variants) - 1),
            gr.Dropdown(choices=rows, value=0),
        )

    def show(self, result: dict[str, Any] | None, before: int | None, after: int | None, which: int | None) -> Any:
        if not result or before is None or after is None or which is None:
            return None
        row = result["files"][which]
        return gr.ImageSlider(value=(served(self.context, row[before]), served(self.context, row[after])))
