"""The Library page: every run and adapter file as a card, what is inside, and what can be done with it."""

from __future__ import annotations

import html
import shutil
import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import get_render_context

from symdream.errors import RequestError
from symdream_apps import library
from symdream_apps.context import Context
from symdream_apps.errors import told
from symdream_apps.exports import DTYPES, FORMATS, export_for_others
from symdream_apps.library import FILE, RUN
from symdream_apps.runs import Runs
from symdream_apps.shared import Shared
from symdream_apps.text import no_markdown
from symdream_apps.wording import brief

EMPTY = "Nothing is here yet. Train a subject on the Train page, or put .safetensors files into the runs folder."
CHOOSE = "Choose a card to see what is inside."
# gradio calls them "Thumbnail 1 of 3" whatever is written below.
NAME_CARDS = """() => setTimeout(() => {
  for (const card of document.querySelectorAll("#shelf button.thumbnail-item")) {
    const text = card.querySelector(".caption-label")
    if (text) card.setAttribute("aria-label", text.textContent.trim())
  }
})"""
QUIET = {"show_progress": "hidden", "api_visibility": "private"}


def build(context: Context, shared: Shared) -> None:
    """The page's components and events, inside of the tab that is open now."""
    runs, tell = Runs(context.runs), told(context)
    tab = get_render_context()
    keys, chosen = gr.State([]), gr.State(None)
    with gr.Row():
        with gr.Column(scale=6, min_width=340):
            with gr.Row(equal_height=True):
                hint = gr.Markdown(EMPTY)
                again = gr.Button("Look again", size="sm", scale=0, min_width=110)
            shelf = gr.Gallery(
                label="Runs and adapter files", show_label=False, columns=3, object_fit="cover", height="auto",
                allow_preview=False, interactive=False, buttons=[], elem_id="shelf", visible=False,
            )  # fmt: skip
            reports = gr.File(label="Reports of comparisons", file_count="multiple", interactive=False, visible=False)
        with gr.Column(scale=6, min_width=340):
            detail = _Detail(context, shared, runs)

    @tell
    def fill():
        found = library.cards(context, runs)
        written = _handed_out(context, library.reports(context))
        return (
            gr.Markdown(CHOOSE if found else EMPTY),
            gr.Gallery([(card.picture, card.text) for card in found], visible=bool(found), selected_index=None),
            [(card.kind, card.key) for card in found],
            gr.File(written, visible=bool(written)),
        )

    shown = [hint, shelf, keys, reports]
    gr.on([tab.select, again.click], fill, outputs=shown, **QUIET)
    shelf.change(None, js=NAME_CARDS, **QUIET)

    @tell
    def choose(listed: list[tuple[str, str]], event: gr.SelectData):
        return listed[event.index]

    shelf.select(choose, keys, chosen, **QUIET).then(detail.show, chosen, detail.outputs, **QUIET)

    @tell
    def take(handed: dict[str, Any] | None):
        """An adapter that another page hands over."""
        if not handed or handed.get("page") != "library":
            return gr.skip()
        path = context.check_path(handed["paths"][0])
        return (RUN, path.name) if path.parent == context.runs and path.is_dir() else (FILE, context.name_of(path))

    shared.handed.change(take, shared.handed, chosen, **QUIET).then(detail.show, chosen, detail.outputs, **QUIET)
    detail.connect(chosen, fill, shown)


def _handed_out(context: Context, files: list[Path]) -> list[str]:
    """Copies of the reports that a browser may have, each under the name of its comparison."""
    if not files:
        return []
    folder = Path(tempfile.mkdtemp(prefix="reports-", dir=context.uploads))
    return [str(shutil.copyfile(file, folder / f"{file.parent.name}.html")) for file in files]


def _plots(facts: dict[str, Any] | None) -> None:
    """Norms and spectra of what is opened."""
    if facts is None:
        return
    norms = library.norms(facts)
    gr.BarPlot(
        library.counted(norms, "layer"), x="layer", y="norm", color="part", color_title=" ", x_axis_format="d",
        color_map=library.COLORS, x_title="layer, in the file's order", y_title="norm", tooltip="all",
        x_lim=[0, len(norms) + 1], label="Norm of each layer's update",
    )  # fmt: skip
    gr.LinePlot(
        library.counted(library.spectra(facts), "number"), x="number", y="share", color="line", color_title=" ",
        color_map=library.COLORS, colors_in_legend=list(facts["components"]), x_axis_format="d",
        x_title="singular value", y_title="over the largest", tooltip="all",
        label="Singular values over the largest: the median layer, and the tenths above and below", elem_id="spectra",
    )  # fmt: skip


class _Detail:
    """The right half: one card's adapter, opened."""

    def __init__(self, context: Context, shared: Shared, runs: Runs):
        self.context, self.shared, self.runs, self.tell = context, shared, runs, told(context)
        self.title = gr.Markdown(visible=False, elem_id="card-title")
        self.opened = gr.State(None)  # what inspect tells of the card that is shown
        with gr.Row(visible=False) as self.actions:
            self.to_generate = gr.Button("Try it", variant="primary")
            self.to_compare = gr.Button("Compare")
        with gr.Column(visible=False) as self.inside:
            self.warnings = gr.Markdown(visible=False)
            self.facts = gr.Dataframe(
                elem_id="facts",
                headers=["what", "value"], type="array", interactive=False, wrap=True, show_label=False,
                label="facts", column_widths=["30%", "70%"], buttons=[],
            )  # fmt: skip
            with gr.Tabs():
                with gr.Tab("Spectrum"):
                    # Made anew for each card: gradio keeps the axes of a plot that is there, or its values.
                    gr.render(self.opened, triggers=[self.opened.change], show_progress="hidden")(_plots)
                with gr.Tab("Layers"):
                    self.layers = gr.Dataframe(
                        headers=["layer", "rank", "in → out", "norm", "largest", "its share"], type="array", wrap=True,
                        interactive=False, show_label=False, label="layers", max_height=420, buttons=["copy"],
                        column_widths=["38%", "11%", "17%", "11%", "12%", "11%"],
                    )  # fmt: skip
                with gr.Tab("Metadata"):
                    self.metadata = gr.Dataframe(
                        headers=["key", "value"], type="array", interactive=False, wrap=True, show_label=False,
                        label="metadata", column_widths=["42%", "58%"], max_height=420, buttons=["copy"],
                    )  # fmt: skip
        with gr.Accordion("Export", open=False, visible=False, elem_id="export") as self.export_box:
            with gr.Row():
                self.to = gr.Dropdown([(words, key) for key, words in FORMATS.items()], value="kohya", label="Format")
                self.dtype = gr.Dropdown(list(DTYPES), value="fp32", label="Number format", min_width=120)
            self.export = gr.Button("Export", variant="primary")
            self.exported = gr.File(label="Exported", file_count="multiple", interactive=False, visible=False)
        with gr.Accordion("Rename or delete", open=False, visible=False, elem_id="change") as self.change_box:
            self.name = gr.Textbox(label="New name", max_length=120)
            with gr.Row():
                self.rename = gr.Button("Rename", min_width=110)
                self.delete = gr.Button("Delete", variant="stop", min_width=110)
            with gr.Row(visible=False) as self.sure:
                self.really = gr.Button("Move it to the trash folder", variant="stop")
                self.keep = gr.Button("Keep it")

    @property
    def outputs(self) -> list[Any]:
        return [
            self.title, self.actions, self.inside, self.warnings, self.facts, self.opened, self.layers, self.metadata,
            self.export_box, self.exported, self.change_box, self.name, self.sure,
        ]  # fmt: skip

    def show(self, card: tuple[str, str] | None) -> dict[Any, Any]:
        """What is inside of `card`; nothing without one, the reason where its adapter cannot be read."""
        boxes = (self.actions, self.inside, self.export_box, self.change_box)
        hidden = {self.exported: gr.File(visible=False, value=None), self.sure: gr.Row(visible=False)}
        if card is None:
            gone = {box: gr.update(visible=False) for box in boxes}
            return {self.title: gr.Markdown(visible=False), **gone, **hidden}
        kind, key = card
        name, plain = no_markdown(key), key if kind == RUN else Path(key).stem
        told_as = {self.title: gr.Markdown(f"### {name}", visible=True), self.name: plain, **hidden}
        try:
            path = library.place(self.context, self.runs, kind, key)
            from symdream.interop.inspect import inspect_adapter

            facts = inspect_adapter(path)
        except RequestError as error:
            self.context.log.info("not shown: %s", " ".join(str(error).split()))
            why = library.as_base(self.context, self.context.runs / key) or brief(error, self.context.runs)
            told_as[self.title] = gr.Markdown(f"### {name}\n{no_markdown(why)}", visible=True)
            gone = {box: gr.update(visible=False) for box in (self.actions, self.inside, self.export_box)}
            return {**told_as, **gone, self.change_box: gr.Accordion(visible=True)}
        except Exception:
            self.context.log.exception("inspecting %s", key)
            raise gr.Error("What is inside could not be read; the log tells more.", print_exception=False) from None
        warned = [f"- **{no_markdown(warning)}**" for warning in facts["warnings"]]
        return {
            **told_as,
            **{box: gr.update(visible=True) for box in boxes},
            self.warnings: gr.Markdown("\n".join(warned), visible=bool(warned)),
            self.facts: library.facts_table(self.runs, kind, key, facts),
            self.opened: facts,
            self.layers: library.layer_rows(facts),
            self.metadata: library.metadata_rows(facts),
        }

    def connect(self, chosen: gr.State, fill: Any, shelf: list[Any]) -> None:
        """The events, once the left half is there too."""
        for button, page in ((self.to_generate, "generate"), (self.to_compare, "compare")):
            button.click(
                self.tell(lambda card, page=page: self._hand_over(card, page)), chosen, self.shared.receivers, **QUIET
            )
        self.export.click(
            self.tell(self._export), [chosen, self.to, self.dtype], self.exported, api_visibility="private"
        )
        again = {"fn": fill, "outputs": shelf, **QUIET}
        self.rename.click(self.tell(self._rename), [chosen, self.name], chosen, **QUIET).success(
            self.show, chosen, self.outputs, **QUIET
        ).then(**again)
        self.delete.click(lambda: gr.Row(visible=True), outputs=self.sure, **QUIET)
        self.keep.click(lambda: gr.Row(visible=False), outputs=self.sure, **QUIET)
        self.really.click(self.tell(self._delete), chosen, chosen, **QUIET).success(
            self.show, chosen, self.outputs, **QUIET
        ).then(**again)

    def _hand_over(self, card: tuple[str, str], page: str):
        return self.shared.hand_over(page, library.place(self.context, self.runs, *card))

    def _export(self, card: tuple[str, str], to: str, dtype: str):
        path = library.place(self.context, self.runs, *card)
        files = export_for_others(self.context, path, to, dtype=dtype)
        return gr.File([str(file) for file in files], visible=True)

    def _rename(self, card: tuple[str, str], name: str) -> tuple[str, str]:
        kind, key = card
        if kind == RUN:
            self.runs.rename(key, name)
            return RUN, name.strip()
        return FILE, library.rename_file(self.context, key, name)

    def _delete(self, card: tuple[str, str]) -> None:
        kind, key = card
        moved = self.runs.delete(key) if kind == RUN else library.delete_file(self.context, key)
        place = moved.relative_to(self.context.runs)
        gr.Info(f"It lies in {html.escape(str(place))} of the runs folder; move it back to undo.", duration=8)
