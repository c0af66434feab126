"""The page "Generate": a base, adapters with their weights, a prompt; pictures as they come, and what was made."""

from __future__ import annotations

import html
import math
import random
from collections.abc import Generator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import get_render_context

from symdream.diffusion.limits import SAMPLERS
from symdream.errors import RequestError, Stopped, SymdreamError
from symdream_apps import adapter_rows, examples, stop_button
from symdream_apps.adapters import base_for, page_name
from symdream_apps.bases import side_of
from symdream_apps.context import Context
from symdream_apps.draft import Named, Values
from symdream_apps.errors import inline, told, warn
from symdream_apps.events import ON_DEVICE, PRIVATE
from symdream_apps.generation import MAX_COUNT, Made, PictureRequest, check, make
from symdream_apps.history import owner_of, served
from symdream_apps.restore import describe, settings_in
from symdream_apps.shared import Shared
from symdream_apps.status import status

SAMPLER_LABELS = {"base": "the base's own", "ddim": "DDIM", "euler": "Euler", "dpm++": "DPM++ 2M"}
SURPRISES = 2**32  # seeds: short enough to be read out
BASES = [
    ("sprite · embedded, draws toys and emoji art", "sprite"),
    ("sd15 · Stable Diffusion 1.5, 2.1 GB", "sd15"),
    ("sdxl · Stable Diffusion XL, 6.9 GB", "sdxl"),
]
STEPS, GUIDANCE = (1, 100), (0, 20)  # of the sliders; a picture that was made with more brings its own
# Steps and guidance that suit a base (its `defaults`, which are known only once torch is).
SIZES, USUAL = {"sprite": (25, 4.0)}, (30, 7.5)


def build(context: Context, shared: Shared) -> None:
    """Lay the page out in the tab that is open now, and connect it."""
    tab = get_render_context()
    page = GeneratePage(context, shared)
    page.connect()
    adapter_rows.keep_up(context, shared, page.rows, tab)
    shared.draft.add("generate", page.boxes, page.bring_back, page.restored)


class GeneratePage:
    """The components of the page, and what happens when they are used."""

    def __init__(self, context: Context, shared: Shared):
        self.context, self.shared = context, shared
        self.made = gr.State([])  # files of the pictures in the gallery, once they are finished
        self.past = gr.State([])  # files of the pictures in the history's gallery
        self.picked = gr.State(None)  # the file whose settings are shown
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=340):
                self._ask()
            with gr.Column(scale=6, min_width=340):
                self._show()

    def _ask(self) -> None:
        self.prompt = gr.Textbox(
            label="Prompt",
            lines=3,
            max_lines=8,
            autofocus=True,
            elem_id="prompt",
            placeholder="a 3d render of a sks bird on a red background",
        )
        with gr.Row():
            self.go = gr.Button("Generate", variant="primary", scale=3, min_width=140, elem_id="generate")
            self.stop = gr.Button("Stop", scale=1, min_width=90, interactive=False, elem_id="stop")
        self.rows = adapter_rows.build(self.context, self.shared, self.prompt)
        self.base = gr.Dropdown(
            BASES,
            value="sprite",
            label="Base",
            allow_custom_value=True,
            elem_id="base",
            info="or a hub id (owner/name), or a folder or .safetensors file in the runs folder",
        )
        self.count = gr.Slider(1, MAX_COUNT, value=1, step=1, label="Pictures", elem_id="count")
        with gr.Row(equal_height=True):
            # No limits here: gradio would refuse a seed beyond them without saying what it speaks of.
            self.seed = gr.Number(0, label="Seed", precision=0, min_width=130, elem_id="seed")
            self.surprise = gr.Checkbox(
                True, label="Surprise me", info="a new seed each time", min_width=150, elem_id="surprise"
            )
        with gr.Accordion("More settings", open=False, elem_id="more"):
            self.negative = gr.Textbox(label="Negative prompt", info="what the picture should not show", lines=1)
            with gr.Row():
                self.sampler = gr.Dropdown(
                    [(SAMPLER_LABELS[name], name) for name in SAMPLERS], value="base", label="Sampler", min_width=150
                )
                self.steps = gr.Slider(*STEPS, value=25, step=1, label="Steps", min_width=150, elem_id="steps")
            self.guidance = gr.Slider(
                *GUIDANCE, value=4, step=0.5, label="Guidance", info="how closely it follows the prompt; 1: not at all"
            )
            with gr.Row():
                self.width = gr.Slider(64, 256, value=128, step=8, label="Width", min_width=150, elem_id="width")
                self.height = gr.Slider(64, 256, value=128, step=8, label="Height", min_width=150, elem_id="height")
        examples.build(self.context, self.prompt, self.rows.chosen)

    def _show(self) -> None:
        self.status = gr.HTML(self.now(), elem_id="status", container=True, padding=True)
        self.gallery = gr.Gallery(
            label="Pictures", columns=1, height="auto", object_fit="contain", interactive=False, elem_id="gallery",
            buttons=["download", "download_all", "fullscreen"], format="png",
        )  # fmt: skip
        self.details = gr.Markdown(visible=False, elem_id="details")
        with gr.Row(visible=False) as self.actions:
            self.use = gr.Button("Use these settings", size="sm", elem_id="use")
            self.compare = gr.Button("Compare these adapters", size="sm", elem_id="to-compare")
        with gr.Accordion("Restore the settings of a picture", open=False):
            self.dropped = gr.File(label="Drop a PNG that was made here", height=110, elem_id="dropped")
        with gr.Accordion("History", open=False, elem_id="history-box"):
            self.history = gr.Gallery(
                label="What was made, newest first", columns=6, height="auto", object_fit="cover",
                allow_preview=False, interactive=False, elem_id="history", buttons=[],
            )  # fmt: skip
            self.clear = gr.Button("Move all to the trash", size="sm")

    def now(self) -> str:
        """What the status says where nothing is being made."""
        return status(self.shared.studio.state)

    @property
    def boxes(self) -> dict[str, Any]:
        """What a request is made of, by name."""
        return {
            "prompt": self.prompt, "base": self.base, "adapters": self.rows.chosen, "strengths": self.rows.strengths,
            "negative_prompt": self.negative, "sampler": self.sampler, "steps": self.steps, "guidance": self.guidance,
            "width": self.width, "height": self.height, "seed": self.seed, "count": self.count,
            "surprise": self.surprise,
        }  # fmt: skip

    @property
    def restored(self) -> list[Any]:
        """What is set where other settings are brought."""
        return [*self.boxes.values(), self.rows.redraw, self.rows.listed]

    def connect(self) -> None:
        tell, shared = told(self.context), self.shared
        # Without triggers: as the page is loaded. What it was built with would be as old as the app. A callable as the
        # value of the status would do the same, and be an endpoint of the API.
        gr.on(None, self.now, outputs=self.status, queue=False, **PRIVATE)
        outputs = [self.status, self.gallery, self.made, self.seed, self.picked, self.details, self.actions, self.stop]
        stop_button.ready([self.go.click, self.prompt.submit], self.stop)
        asked = gr.on(
            [self.go.click, self.prompt.submit], tell(self.answer_generate),
            [shared.browser, *self.boxes.values()], outputs,
            show_progress="minimal", show_progress_on=self.status,
            scroll_to_output=True, api_visibility="private", **ON_DEVICE,
        )  # fmt: skip
        remembered = [self.history, self.past]
        asked.then(tell(self.look_back), shared.browser, remembered, **PRIVATE)
        looked = [shared.kept.change, shared.browser.change]
        gr.on(looked, tell(self.look_back), shared.browser, remembered, **PRIVATE)
        stop_button.connect(shared, self.stop, asked, self.status)
        chosen = [self.picked, self.details, self.actions]
        self.gallery.select(tell(self.pick), self.made, chosen, **PRIVATE)
        self.history.select(tell(self.pick), self.past, chosen, **PRIVATE)
        self.clear.click(tell(self.forget), shared.browser, [*remembered, self.gallery, self.made, *chosen], **PRIVATE)
        self.use.click(tell(self.restore), [self.picked, shared.dropped], self.restored, **PRIVATE)
        sent = [self.dropped, shared.dropped]
        self.dropped.upload(tell(self.take_dropped), sent, [*self.restored, self.dropped], **PRIVATE)
        self.compare.click(tell(self.to_compare), [self.picked, shared.dropped], shared.receivers, **PRIVATE)
        # A choice of the user's, not a restored picture, which brings sizes of its own.
        self.base.input(
            tell(lambda base: sizes_of(self.context, base)),
            self.base,
            [self.steps, self.guidance, self.width, self.height],
            **PRIVATE,
        )
        shared.handed.change(
            tell(self.take),
            [shared.handed, self.rows.chosen, shared.dropped, self.base],
            [*self.rows.shown, self.base, self.steps, self.guidance, self.width, self.height],
            **PRIVATE,
        )

    def answer_generate(
        self,
        browser: str,
        prompt: str,
        base: str,
        chosen: list[str],
        strengths: dict[str, Any],
        negative: str,
        sampler: str,
        steps: int,
        guidance: float,
        width: int,
        height: int,
        seed: int,
        count: int,
        surprise: bool,
        request: gr.Request,
    ) -> Generator[tuple, None, None]:
        hidden = (None, gr.Markdown(visible=False), gr.Row(visible=False))
        off = gr.Button(interactive=False, variant="secondary")
        try:
            owner = owner_of(browser, request)
            seed = random.randrange(SURPRISES) if surprise else int(seed or 0)
            adapters = adapter_rows.worn(self.context, chosen, strengths)
            asked = PictureRequest(
                prompt or "", base or "", adapters, negative or "", sampler, int(steps), float(guidance), int(width),
                int(height), seed, int(count),
            )  # fmt: skip
            check(asked)
            yield status("Starting …"), None, [], seed, *hidden, gr.Button(interactive=True, variant="stop")
            files: list[Path] = []

            def keep(first: int, made: list[Made]) -> None:  # at once: who leaves the page finds them in its history
                files.extend(self.shared.history.save(owner, made, first))

            work = self.shared.desk.run(request.session_hash, lambda line: make(self.shared.studio, asked, line, keep))
            unfinished: dict[int, Any] = {}
            while True:
                event, shown = next(work), gr.skip()
                if event.pictures:
                    unfinished.update(event.pictures)
                    pictures = [(image, f"{i + 1} · on its way") for i, image in sorted(unfinished.items())]
                    shown = gr.Gallery(value=pictures, columns=columns_for(int(count)))
                line = status(event.text, event.share) if event.text else gr.skip()
                yield line, shown, *(gr.skip() for _ in range(6))
        except StopIteration as end:
            result = end.value
        except Stopped:
            yield status("Stopped."), None, [], gr.skip(), *hidden, off
            return
        except Exception as error:  # noqa: BLE001 - told in the page, where it stays
            yield inline(self.context, error), None, [], gr.skip(), *hidden, off
            return
        try:
            shown = [
                (served(self.context, file), f"seed {made.settings['seed']}")
                for file, made in zip(files, result.pictures, strict=True)
            ]
            first = settings_in(files[0])
        except (SymdreamError, OSError) as error:  # a full disk
            yield inline(self.context, error), None, [], gr.skip(), *hidden, off
            return
        yield (
            report(len(files), result.notes, self.shared.studio.state),
            gr.Gallery(value=shown, columns=columns_for(len(files))), [str(file) for file in files], seed,
            str(files[0]), gr.Markdown(describe(first), visible=True), gr.Row(visible=True), off,
        )  # fmt: skip

    def look_back(self, browser: str, request: gr.Request) -> tuple[list[str], list[str]]:
        """The pictures that the history shows, and their files: the folder may hold others when one is clicked."""
        history = self.shared.history
        files = history.newest(owner_of(browser, request))
        return [served(self.context, history.thumbnail(file)) for file in files], [str(file) for file in files]

    def forget(self, browser: str, request: gr.Request) -> tuple:
        count = self.shared.history.clear(owner_of(browser, request))
        gr.Info(f"{count} pictures moved to the trash folder.")
        return [], [], None, [], None, gr.Markdown(visible=False), gr.Row(visible=False)

    def pick(self, shown: list[str], event: gr.SelectData) -> tuple:
        """The picture that was clicked among the files that a gallery shows."""
        if event.index >= len(shown):
            return None, gr.skip(), gr.skip()
        file = shown[event.index]
        return file, gr.Markdown(describe(settings_in(Path(file))), visible=True), gr.Row(visible=True)

    def restore(self, file: str | None, dropped: list[str]) -> tuple:
        """The page's settings as those of a picture's file; `dropped` are adapters that it may have been made with."""
        if file is None:
            raise RequestError("No picture is chosen.", fix="click one first")
        settings = settings_in(Path(file))
        weights = adapter_rows.remembered(self.context, settings["adapters"], dropped)
        dropdown, listed = adapter_rows.choose(self.context, list(weights), dropped)
        strengths = {path: {"weight": weight, "on": True} for path, weight in weights.items()}
        sampler = settings["sampler"]
        if sampler not in SAMPLERS:
            gr.Warning(f"There is no sampler {html.escape(str(sampler))} here: {SAMPLER_LABELS['base']} is chosen.")
            sampler = "base"
        base = page_name(self.context, str(settings["base"])) or settings["base"]
        which = "settings" if len(weights) == len(settings["adapters"]) else "other settings"
        gr.Info(f"The {which} of the picture are back.")
        values = [
            settings["prompt"], base, dropdown, strengths, settings["negative_prompt"], sampler,
            slider(int(settings["steps"]), *STEPS), slider(float(settings["guidance"]), *GUIDANCE),
            *(side_slider(side_of(self.context, base), int(settings[name])) for name in ("width", "height")),
            int(settings["seed"]), 1, False,
        ]  # fmt: skip
        return (*values, random.random(), listed)

    def take_dropped(self, file: str, dropped: list[str]) -> tuple:
        """`restore`, and the place to drop is free again whatever was dropped."""
        try:
            return (*self.restore(file, dropped), None)
        except SymdreamError as error:
            warn(self.context, error)
            return (*(gr.skip() for _ in self.restored), None)

    def bring_back(self, kept: Values, files: Named) -> list[Any]:
        """`restored` from what stood in the boxes before the page was loaded again."""
        chosen, listed = adapter_rows.bring_back(self.context, kept["adapters"], files)
        values, side = {**kept, "adapters": chosen}, side_of(self.context, kept["base"])
        for name, low, high in (("steps", *STEPS), ("guidance", *GUIDANCE)):
            values[name] = gr.skip() if kept[name] is None else slider(kept[name], low, high)
        for name in ("width", "height"):
            values[name] = gr.skip() if kept[name] is None else side_slider(side, kept[name])
        return [*(values[name] for name in self.boxes), random.random(), listed]

    def to_compare(self, file: str | None, dropped: list[str]) -> tuple:
        worn = settings_in(Path(file))["adapters"] if file else []
        return self.shared.hand_over("compare", *adapter_rows.remembered(self.context, worn, dropped))

    def take(self, handed: dict[str, Any] | None, chosen: list[str], dropped: list[str], base: str) -> tuple:
        """An adapter that another page sends and, if it is the only one, its base."""
        if not handed or handed["page"] != "generate":
            return (gr.skip(),) * 7
        return taken(self.context, handed["paths"], chosen, dropped, base)


def taken(context: Context, paths: list[str], chosen: list[str], dropped: list[str], base: str) -> tuple:
    """The adapters at `paths` beside those that are chosen (`AdapterRows.shown`), and the base with its steps,
    guidance, width and height where nothing but they says which."""
    shown = adapter_rows.choose(context, list(dict.fromkeys([*chosen, *paths])), dropped)
    own = None if chosen else base_for(context, paths)
    return (*shown, own, *sizes_of(context, own)) if own and own != base else (*shown, *(gr.skip(),) * 5)


def sizes_of(context: Context, base: str) -> tuple:
    """Steps, guidance, width and height as they suit a base."""
    side = side_of(context, base)
    return *SIZES.get(base, USUAL), *(side_slider(side, side) for _ in range(2))


def side_slider(side: int, value: int) -> gr.Slider:
    """A width or height for a base of `side` pixels: from a quarter of it to twice as much."""
    return slider(value, max(64, side // 4), 2 * side)


def slider(value: float, low: float, high: float) -> gr.Slider:
    """A slider from `low` to `high`, wide enough for `value` in any case: gradio refuses what lies beyond."""
    return gr.Slider(minimum=min(value, low), maximum=max(value, high), value=value)


def columns_for(count: int) -> int:
    """Columns of a gallery: nearly square, at most 4."""
    return min(4, math.ceil(math.sqrt(count)))


def report(count: int, notes: list[str], state: str) -> str:
    """What the page says when pictures are done."""
    return status(f"{count} picture{'s' if count > 1 else ''} done. {state}", notes=notes)
