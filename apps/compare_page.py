"""The page "Compare": the same prompts and seeds by base and adapters, or by one adapter at several weights."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import get_render_context

from symdream.errors import RequestError, Stopped
from symdream_apps import adapter_rows, blind_test, comparison, references, slider, stop_button
from symdream_apps.comparison import WEIGHTS, Comparison, Variant
from symdream_apps.context import Context
from symdream_apps.draft import Named, Values, sent_before
from symdream_apps.errors import inline, told
from symdream_apps.events import ON_DEVICE, PRIVATE
from symdream_apps.generate_page import BASES, sizes_of, taken
from symdream_apps.generation import Made, PictureRequest
from symdream_apps.history import owner_of
from symdream_apps.shared import Shared
from symdream_apps.status import status

ACROSS = [("base and adapters", "adapters"), ("weights of one adapter", "weights")]
EXAMPLE = "a 3d render of a {subject} on a checkered blue background\na flat icon of a {subject} on a yellow background"


def build(context: Context, shared: Shared) -> None:
    """Lay the page out in the tab that is open now, and connect it."""
    tab = get_render_context()
    page = ComparePage(context, shared)
    page.connect()
    adapter_rows.keep_up(context, shared, page.rows, tab)
    shared.draft.add("compare", page.boxes, page.bring_back, [*page.boxes.values(), page.rows.listed])


class ComparePage:
    """The components of the page, and what happens when they are used."""

    def __init__(self, context: Context, shared: Shared):
        self.context, self.shared = context, shared
        self.result = gr.State(None)  # what slider and blind test show: files and labels, no pictures
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=340):
                self._ask()
            with gr.Column(scale=7, min_width=340):
                self._show()

    def _ask(self) -> None:
        self.across = gr.Radio(ACROSS, value="adapters", label="Compare", elem_id="across")
        self.rows = adapter_rows.build(self.context, self.shared, weights=False, label="Adapters to compare")
        self.base_too = gr.Checkbox(True, label="The base alone, too", elem_id="base-too")
        self.weights = gr.CheckboxGroup(
            [(f"{weight:g}", weight) for weight in WEIGHTS],
            value=[0.0, 0.5, 1.0, 1.5],
            label="Weights",
            visible=False,
            info="of the first adapter chosen",
            elem_id="weights",
        )
        self.prompts = gr.Textbox(
            EXAMPLE,
            label="Prompts, one a line",
            lines=3,
            max_lines=10,
            elem_id="compare-prompts",
            info="{subject} becomes each adapter's own trigger and class noun",
        )
        with gr.Row():
            self.seeds = gr.Textbox("0, 1", label="Seeds", info="such as 0, 1, 2 or 0-3", min_width=140)
            self.steps = gr.Slider(1, 100, value=25, step=1, label="Steps", min_width=140, elem_id="compare-steps")
        with gr.Row():
            self.go = gr.Button("Compare", variant="primary", scale=3, min_width=140, elem_id="compare")
            self.stop = gr.Button("Stop", scale=1, min_width=90, interactive=False, elem_id="compare-stop")
        with gr.Accordion("Photos of the subject, for the scores", open=False):
            self.photos = gr.Dropdown(
                references.choices(self.context), value=references.OF_THE_RUN, label="Photos", elem_id="photos"
            )
            self.uploaded = gr.File(label="or drop photos here", file_count="multiple", height=140)
        with gr.Accordion("More settings", open=False):
            self.base = gr.Dropdown(BASES, value="sprite", label="Base", allow_custom_value=True)
            self.guidance = gr.Slider(0, 20, value=4, step=0.5, label="Guidance")
            self.negative = gr.Textbox(label="Negative prompt", lines=1)

    def _show(self) -> None:
        self.status = gr.HTML(
            status("Choose adapters, or one adapter and several weights."),
            elem_id="compare-status",
            container=True,
            padding=True,
        )
        with gr.Tabs():
            with gr.Tab("Grid"):
                self.grid = gr.Image(
                    label="The same prompts and seeds",
                    show_label=False,
                    format="png",
                    interactive=False,
                    elem_id="grid",
                    buttons=["download", "fullscreen"],
                )
                self.table = gr.Dataframe(
                    headers=["variant", "DINO", "CLIP-T"],
                    datatype=["str", "number", "number"],
                    interactive=False,
                    label="Means: DINO (is it the subject?), CLIP-T (does it follow the prompt?); higher is better",
                    visible=False,
                    wrap=True,
                    elem_id="means",
                )
            with gr.Tab("Before / after"):
                self.slider = slider.Slider(self.context)
            with gr.Tab("Blind test"):
                self.blind = blind_test.BlindTest(self.context)

    @property
    def boxes(self) -> dict[str, Any]:
        """What a request is made of, by name."""
        return {
            "across": self.across, "adapters": self.rows.chosen, "base_too": self.base_too, "weights": self.weights,
            "prompts": self.prompts, "seeds": self.seeds, "steps": self.steps, "photos": self.photos,
            "uploaded": self.uploaded, "base": self.base, "guidance": self.guidance, "negative_prompt": self.negative,
        }  # fmt: skip

    def connect(self) -> None:
        tell, shared = told(self.context), self.shared
        outputs = [self.status, self.grid, self.table, self.result, self.stop]
        stop_button.ready([self.go.click], self.stop)
        asked = self.go.click(
            tell(self.answer_compare),
            [shared.browser, *self.boxes.values(), shared.dropped],
            outputs, show_progress="minimal", show_progress_on=self.status,
            scroll_to_output=True, api_visibility="private", **ON_DEVICE,
        )  # fmt: skip
        asked.then(time.time, None, shared.kept, **PRIVATE)
        self.slider.connect(self.result)
        self.blind.connect(self.result)
        stop_button.connect(shared, self.stop, asked, self.status)
        self.across.change(
            lambda across: (gr.CheckboxGroup(visible=across == "weights"), gr.Checkbox(visible=across == "adapters")),
            self.across,
            [self.weights, self.base_too],
            queue=False,
            **PRIVATE,
        )
        self.base.input(
            tell(lambda base: sizes_of(self.context, base)[:2]), self.base, [self.steps, self.guidance], **PRIVATE
        )
        shared.handed.change(
            tell(self.take),
            [shared.handed, self.rows.chosen, shared.dropped, self.base],
            [*self.rows.shown, self.base, self.steps, self.guidance],
            **PRIVATE,
        )

    def answer_compare(
        self,
        browser: str,
        across: str,
        chosen: list[str],
        base_too: bool,
        weights: list[float],
        prompts: str,
        seeds: str,
        steps: int,
        photos: str,
        uploaded: list[str] | None,
        base: str,
        guidance: float,
        negative: str,
        dropped: list[str],
        request: gr.Request,
    ) -> Generator[tuple, None, None]:
        off = gr.Button(interactive=False, variant="secondary")
        try:
            owner = owner_of(browser, request)
            cards = [adapter_rows.card_of(self.context, path, dropped) for path in chosen or []]
            if not cards:
                raise RequestError("No adapter is chosen.", fix="choose one, or drop a file")
            if across == "weights":
                variants = comparison.of_weights(cards[0], weights)
            else:
                variants = comparison.of_adapters(cards, base_too=base_too)
            rows = comparison.check_comparison(variants, (prompts or "").splitlines(), comparison.parse_seeds(seeds))
            paths = [[worn.path for worn in variant.adapters] for variant in variants]
            known, about_photos = references.find(self.context, photos, paths, uploaded)
            settings = PictureRequest(
                prompt="", base=base or "", negative_prompt=negative or "", steps=int(steps), guidance=float(guidance)
            )
            running = gr.Button(interactive=True, variant="stop")
            # The result stays until there is a new one: a blind test of it goes on, whatever becomes of this.
            yield status("Starting …"), None, gr.Dataframe(visible=False), gr.skip(), running
            files: dict[int, Path] = {}

            def keep(place: int, made: Made) -> None:  # at once: who leaves the page finds them in its history
                [files[place]] = self.shared.history.save(owner, [made], place)

            work = self.shared.desk.run(
                request.session_hash,
                lambda line: comparison.compare(self.shared.studio, settings, variants, rows, known, line, keep),
            )
            columns, so_far = len(variants), {}
            while True:
                event, grid = next(work), gr.skip()
                if event.pictures:
                    so_far.update(event.pictures)
                    grid = gr.Image(value=partial(variants, rows, columns, so_far), alt_text=in_words(variants, rows))
                line = status(event.text, event.share) if event.text else gr.skip()
                yield line, grid, gr.skip(), gr.skip(), gr.skip()
        except StopIteration as end:
            result: Comparison = end.value
        except Stopped:
            yield status("Stopped."), gr.skip(), gr.skip(), gr.skip(), off
            return
        except Exception as error:  # noqa: BLE001 - told in the page, where it stays
            yield inline(self.context, error), gr.skip(), gr.skip(), gr.skip(), off
            return
        notes = result.notes + ([about_photos] if about_photos else [])
        kept = for_views(result, [files[place] for place in sorted(files)])
        scores = result.means() if result.scored else []
        means = [(label, round(dino, 3), round(clip_t, 3)) for label, dino, clip_t in scores]
        yield (
            status("Done.", notes=notes),
            gr.Image(value=result.grid(), alt_text=in_words(variants, rows)),
            gr.Dataframe(value=means, visible=bool(means)),
            kept,
            off,
        )

    def take(self, handed: dict[str, Any] | None, chosen: list[str], dropped: list[str], base: str) -> tuple:
        """Adapters that another page sends and, if they are the only ones, their base."""
        if not handed or handed["page"] != "compare":
            return (gr.skip(),) * 5
        return taken(self.context, handed["paths"], chosen, dropped, base)[:5]

    def bring_back(self, kept: Values, files: Named) -> list[Any]:
        """The boxes, and what the list of adapters holds, as they were before the page was loaded again."""
        chosen, listed = adapter_rows.bring_back(self.context, kept["adapters"], files)
        values = {**kept, "adapters": chosen, "uploaded": sent_before(self.context, kept["uploaded"], files)}
        return [*(values[name] for name in self.boxes), listed]


def for_views(result: Comparison, saved: list[Path]) -> dict[str, Any]:
    """The comparison as slider and blind test need it: files and numbers, so that no session holds pictures."""
    columns = len(result.variants)
    return {
        "variants": [variant.label for variant in result.variants],
        "columns": comparison.column_labels(result.variants, result.rows),
        "rows": [{"prompt": prompt, "seed": row.seed} for prompt, row in zip(result.prompts, result.rows, strict=True)],
        "prompts": [[cell.made.settings["prompt"] for cell in row] for row in result.cells],
        "files": [saved[i : i + columns] for i in range(0, len(saved), columns)],
        "dino": [[cell.dino for cell in row] for row in result.cells],
        "captions": [[cell.caption for cell in row] for row in result.cells],
        "references": list(result.references),
    }


def in_words(variants: Sequence[Variant], rows: Sequence[comparison.Row]) -> str:
    """The grid for those who do not see it."""
    across = ", ".join(comparison.column_labels(variants, rows))
    down = "; ".join(f"{row.prompt}, seed {row.seed}" for row in rows)
    return f"A grid of pictures. Across: {across}. Down: {down}."


def partial(variants: Sequence[Variant], rows: Sequence[comparison.Row], columns: int, so_far: dict[int, Any]) -> Any:
    """The grid while columns are missing."""
    from PIL import Image

    from symdream.diffusion.grid import make_grid

    size = next(iter(so_far.values())).size
    empty = Image.new("RGB", size, (236, 238, 242))
    return make_grid(
        [[so_far.get(i * columns + j, empty) for j in range(columns)] for i in range(len(rows))],
        column_labels=comparison.column_labels(variants, rows),
        row_labels=[f"{row.prompt} seed {row.seed}" for row in rows],
        cell=208,
    )
