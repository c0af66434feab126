"""The blind test's part of the Compare page: A or B, and the votes as a file."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr

from symdream.errors import RequestError
from symdream_apps.blind import NEITHER, A, B, Pair, Vote, as_csv, conclusion, draw_pairs
from symdream_apps.context import Context
from symdream_apps.errors import told, warn
from symdream_apps.events import PRIVATE
from symdream_apps.history import served
from symdream_apps.text import no_markdown

INTRODUCTION = (
    "Which one is more your subject? You see two pictures of the same prompt and seed, and not which variant made "
    "them. Compare first; then start."
)


class BlindTest:
    """The components, laid out where this is made."""

    def __init__(self, context: Context):
        self.context = context
        self.state = gr.State(None)  # {"pairs", "at", "votes"} while a test runs
        self.text = gr.Markdown(INTRODUCTION, elem_id="blind-text")
        self.start = gr.Button("Start", size="sm", elem_id="blind-start")
        self.photos = gr.Gallery(
            label="Your subject", columns=8, height="auto", object_fit="contain", visible=False, interactive=False,
            allow_preview=False, buttons=[], elem_classes="unwritten",
        )  # fmt: skip
        with gr.Row(visible=False) as self.pictures:
            self.a, self.b = (
                gr.Image(
                    label=name, interactive=False, buttons=[], height=300, min_width=140,
                    elem_id=f"blind-{name.lower()}", alt_text=f"picture {name}",
                )
                for name in "AB"
            )  # fmt: skip
        with gr.Row(visible=False) as self.answers:
            self.choose = {
                A: gr.Button("A", min_width=80, elem_id="choose-a"),
                NEITHER: gr.Button("I cannot tell", min_width=80, elem_id="choose-neither"),
                B: gr.Button("B", min_width=80, elem_id="choose-b"),
            }
        self.export = gr.DownloadButton("Download the votes (CSV)", visible=False, size="sm", elem_id="votes")

    @property
    def outputs(self) -> list[Any]:
        shown = [self.text, self.start, self.photos, self.pictures, self.a, self.b, self.answers, self.export]
        return [self.state, *shown]

    def connect(self, result: gr.State) -> None:
        """`result` is changed by a new comparison: a test of the old one ends."""
        tell = told(self.context)
        result.change(self.reset, None, self.outputs, **PRIVATE)
        self.start.click(tell(self.begin), result, self.outputs, **PRIVATE)
        for choice, button in self.choose.items():
            button.click(
                tell(lambda result, state, choice=choice: self.vote(result, state, choice)),
                [result, self.state],
                self.outputs,
                **PRIVATE,
            )

    def reset(self) -> tuple:
        hidden = [gr.Gallery(visible=False), gr.Row(visible=False), None, None, gr.Row(visible=False)]
        return (None, INTRODUCTION, gr.Button("Start", visible=True), *hidden, gr.DownloadButton(visible=False))

    def begin(self, result: dict[str, Any] | None) -> tuple:
        if not result:
            raise RequestError("There is nothing to choose between yet.", fix="compare first")
        pairs = draw_pairs(len(result["rows"]), len(result["variants"]))
        return self.show(result, {"pairs": pairs, "at": 0, "votes": []})

    def show(self, result: dict[str, Any], state: dict[str, Any]) -> tuple:
        """The pair that is next, or the end."""
        at, pairs = state["at"], state["pairs"]
        if at == len(pairs):
            return self.finish(state)
        pair: Pair = pairs[at]
        files, row = result["files"][pair.row], result["rows"][pair.row]
        a, b = (gr.Image(value=served(self.context, files[place])) for place in (pair.a, pair.b))
        of_subject = [(served(self.context, file), file.name) for file in map(Path, result["references"])]
        photos = gr.Gallery(value=of_subject, visible=bool(of_subject))
        return (
            state, f"**{at + 1} of {len(pairs)}** · Which one is more your subject?  \n{no_markdown(row['prompt'])}",
            gr.Button("Start again"), photos, gr.Row(visible=True), a, b, gr.Row(visible=True),
            gr.DownloadButton(visible=False),
        )  # fmt: skip

    def vote(self, result: dict[str, Any] | None, state: dict[str, Any] | None, choice: str) -> tuple:
        if not result or not state or state["at"] >= len(state["pairs"]):
            raise RequestError("This test is over.", fix="start again")
        pair: Pair = state["pairs"][state["at"]]
        hidden = (result["prompts"][pair.row], result["variants"], result["dino"][pair.row])
        prompts, names, dino = ((of[pair.a], of[pair.b]) for of in hidden)
        vote = Vote(*prompts, result["rows"][pair.row]["seed"], *names, choice, *dino)
        state = {**state, "at": state["at"] + 1, "votes": [*state["votes"], vote]}
        try:
            return self.show(result, state)
        except RequestError as error:  # the pictures went to the trash meanwhile; the votes stay
            warn(self.context, error)
            return self.finish({**state, "at": len(state["pairs"])})

    def finish(self, state: dict[str, Any]) -> tuple:
        folder = self.context.uploads / f"votes-{secrets.token_hex(8)}"
        folder.mkdir()
        file = folder / "votes.csv"
        file.write_text(as_csv(state["votes"]), encoding="utf-8")
        hidden = [gr.Gallery(visible=False), gr.Row(visible=False), None, None, gr.Row(visible=False)]
        text = f"That was the last pair. Thank you.\n\n{conclusion(state['votes'])}"
        return (state, text, gr.Button("Start again"), *hidden, gr.DownloadButton(value=str(file), visible=True))
