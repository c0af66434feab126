"""The right half of the Train page: one run as it is now, whoever started it, and what can be done with it."""

from __future__ import annotations

import html
from typing import Any

import gradio as gr

from symdream_apps import watching
from symdream_apps.context import Context
from symdream_apps.errors import told
from symdream_apps.exports import export_for_others
from symdream_apps.runs import Runs
from symdream_apps.shared import Shared

LOOK_EVERY = 1.5  # seconds
NO_RUN = "<p>No runs yet. What you start on this page is shown here, and goes on when you close the browser.</p>"


def build(context: Context, shared: Shared, runs: Runs, name_started: gr.State) -> None:
    """The pane's components and events; `name_started` is the run that this browser started last."""
    tell = told(context)
    gr.Markdown("### Runs")
    picked = gr.Dropdown(
        [], value=None, label="Run", info="Those at work first, then the queue, then the others.", elem_id="run"
    )
    told_as = gr.HTML(NO_RUN, elem_id="run-status")
    with gr.Row():
        stop = gr.Button("Stop", variant="stop", visible=False)
        resume = gr.Button("Resume", variant="primary", visible=False)
    with gr.Row():
        to_generate = gr.Button("Try it", variant="primary", visible=False)
        to_compare = gr.Button("Compare", visible=False)
        to_file = gr.Button("Export for ComfyUI and A1111", visible=False)
    exported = gr.File(
        label="For ComfyUI, A1111 and kohya's tools",
        file_count="multiple",
        visible=False,
        interactive=False,
        elem_id="run-export",
    )
    plot = gr.LinePlot(
        x="step", y="loss", color="line", x_title="step", y_title="loss", color_title=" ", visible=False,
        color_map={watching.EACH: "#9aa5b1", watching.SMOOTHED: "#d9480f"}, tooltip="all", label="Loss",
        x_axis_format="d", elem_id="loss",
    )  # fmt: skip
    samples = gr.Gallery(
        label="Pictures on the way, the newest first", columns=1, height=520, object_fit="contain", visible=False,
        interactive=False, buttons=["download", "fullscreen"], elem_id="samples",
    )  # fmt: skip
    seen = gr.State({})
    shown = [picked, told_as, stop, resume, to_generate, to_compare, to_file, exported, plot, samples, seen]

    def update(chosen: str | None, before: dict[str, Any]) -> tuple:
        """What changed since `before`; what did not is not sent again."""
        statuses = runs.statuses()
        names = [status.name for status in statuses]
        chosen = chosen if chosen in names else (names[0] if names else None)
        choices = [(watching.label(status), status.name) for status in statuses]
        now: dict[str, Any] = {"choices": choices, "chosen": chosen}
        picker = gr.skip()
        if (now["choices"], chosen) != (before.get("choices"), before.get("chosen")):
            picker = gr.Dropdown(choices=choices, value=chosen)
        if chosen is None:
            hidden = [gr.update(visible=False)] * 5
            return picker, NO_RUN, *hidden, *[gr.update(visible=False)] * 3, now
        status, run = statuses[names.index(chosen)], runs.get(chosen)
        same = chosen == before.get("chosen")
        now["text"] = watching.sentence(runs, status)
        table, files = watching.curve(run), watching.sample_files(run)
        now["points"], now["files"] = (len(table), status.step), [str(file) for file in files]
        now["buttons"] = (
            status.status in ("queued", "starting", "running"),
            status.resumable,
            not status.busy and any(run.adapter.glob("*/adapter_model.safetensors")),
        )

        def changed(key: str) -> bool:
            return not same or now[key] != before.get(key)

        stops, resumes, made = now["buttons"]
        buttons = [gr.skip()] * 5
        if changed("buttons"):
            wait = "Take out of the queue" if status.status == "queued" else "Stop"
            buttons = [gr.Button(wait, visible=stops), gr.Button(visible=resumes)]
            buttons += [gr.Button(visible=made)] * 3
        return (
            picker,
            now["text"] if changed("text") else gr.skip(),
            *buttons,
            gr.skip() if same else gr.File(visible=False, value=None),
            gr.LinePlot(table, visible=len(table) > 0) if changed("points") else gr.skip(),
            gr.Gallery(watching.pictures(files), visible=bool(files)) if changed("files") else gr.skip(),
            now,
        )

    watch = tell(update)
    quiet = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
    # Past the queue, a request each: the queue's stream is opened and closed again for every look, and where gradio is
    # late in closing one, it tells the event that has come meanwhile, a click perhaps, that the connection broke.
    look = {**quiet, "queue": False}
    timer = gr.Timer(LOOK_EVERY)
    timer.tick(watch, [picked, seen], shown, **look)
    picked.input(watch, [picked, seen], shown, **look)
    name_started.change(watch, [name_started, seen], shown, **look)

    @tell
    def ask_to_stop(chosen: str):
        gr.Info(html.escape(runs.stop(chosen)), duration=6)

    @tell
    def ask_to_resume(chosen: str):
        runs.resume(chosen)
        first = runs.start_next()
        shown = html.escape(chosen)
        gr.Info(f"{shown} goes on." if first == chosen else f"{shown} waits for its turn.", duration=4)

    for button, ask in ((stop, ask_to_stop), (resume, ask_to_resume)):
        button.click(ask, picked, **quiet).then(watch, [picked, seen], shown, **look)

    @tell
    def write(chosen: str):
        files = export_for_others(context, runs.get(chosen).path, "kohya")
        return gr.File([str(file) for file in files], visible=True)

    to_file.click(write, picked, exported, api_visibility="private")
    for button, page in ((to_generate, "generate"), (to_compare, "compare")):
        button.click(
            tell(lambda chosen, page=page: shared.hand_over(page, runs.get(chosen).path)),
            picked,
            shared.receivers,
            **quiet,
        )
