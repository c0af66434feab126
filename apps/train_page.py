"""The Train page: photos in, a look at them, a run in the queue, and what it does while it trains."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import gradio as gr

from symdream.data.captions import PLACEHOLDER
from symdream.diffusion.names import EMBEDDED
from symdream.errors import Problems
from symdream.presets import PRESETS
from symdream.settings import fields
from symdream.tuners.methods import METHODS
from symdream_apps import run_api, run_pane, train_request
from symdream_apps.bases import side_of
from symdream_apps.context import Context
from symdream_apps.draft import Named, Values, sent_before
from symdream_apps.errors import told
from symdream_apps.photo_check import Report, check
from symdream_apps.runs import Keeper, Runs
from symdream_apps.shared import Shared
from symdream_apps.text import no_markdown
from symdream_apps.wording import labelled, without_flags

NO_SAMPLE = ("your own photos", "")


def describe(name: str) -> str:
    """A setting's sentence, the same one as in the help and in config.toml."""
    return fields()[name][1].description or ""


def build(context: Context, shared: Shared) -> None:
    """The page's components and events, inside of the tab that is open now."""
    runs = Runs(context.runs)
    Keeper(runs).start()
    run_api.build(context, runs)
    with gr.Row():
        with gr.Column(scale=5, min_width=340):
            name_started = _setup(context, shared, runs)
        with gr.Column(scale=6, min_width=340):
            run_pane.build(context, shared, runs, name_started)


def _setup(context: Context, shared: Shared, runs: Runs) -> gr.State:
    """The left half: returns the state that holds the name of the run that was started last."""
    tell = told(context)
    gr.Markdown("### 1. Photos\n3 to 6 of one subject: different backgrounds and views, the subject whole and sharp.")
    sample = gr.Dropdown(
        [NO_SAMPLE, *((name.replace("_", " "), name) for name in train_request.sample_subjects(context))],
        value="",
        label="Subject",
        info="Your own photos, or a sample subject to try it with.",
        elem_id="subject",
    )
    photos = gr.File(
        file_count="multiple", label="Drop photos here, or click to choose", height=150, elem_id="train-photos"
    )
    shown_as = gr.Markdown(visible=False)
    crops = gr.Gallery(
        label="What is trained on", show_label=False, columns=5, height="auto", object_fit="contain",
        visible=False, interactive=False, buttons=[], elem_classes="snug unwritten", elem_id="crops",
    )  # fmt: skip
    findings = gr.Markdown(visible=False, elem_id="findings")
    to_real = gr.Button("Take the base sd15, for photographs", size="sm", visible=False)
    with gr.Accordion("Captions", open=False, visible=False, elem_id="captions") as captions_box:
        gr.Markdown(
            f"Empty takes the base's template. {PLACEHOLDER} becomes trigger and class noun. Say what is *not* the "
            "subject, such as the background: what a caption names is learned as something else."
        )
        captions = gr.Dataframe(
            headers=["photo", "caption"], datatype="str", type="array", column_count=2, static_columns=[0],
            interactive=True, wrap=True, show_label=False, label="captions", column_widths=["35%", "65%"], buttons=[],
        )  # fmt: skip
    paths = gr.State([])
    written = gr.State({})  # captions of a draft by path: its table, which is not shown yet, cannot bring them

    gr.Markdown("### 2. Subject")
    with gr.Row():
        noun = gr.Textbox(
            label="Class noun", info='What it is: "dog", "backpack".', max_length=100, min_width=140, elem_id="noun"
        )
        trigger = gr.Textbox("sks", label="Trigger", info="The word that will mean it.", max_length=100, min_width=140)

    gr.Markdown("### 3. Method")
    base = gr.Dropdown(
        train_request.base_choices(),
        value=EMBEDDED,
        allow_custom_value=True,
        label="Base",
        elem_id="train-base",
        info="sprite (here, draws toys), sd15, sdxl, a hub id, or a folder or file among the runs.",
    )
    method = gr.Radio(list(METHODS), value="singlora", label="Method", info="Which adapter is trained.")
    preset = gr.Radio(["default", *PRESETS], value="default", label="Preset", info=_why("default"))
    with gr.Accordion("More settings", open=False, elem_id="more-training"):
        settings = _settings()
        name = gr.Textbox(label="Name of the run", placeholder="subject and method", max_length=80)
    start_button = gr.Button("Start training", variant="primary", size="lg", elem_id="start-training")
    name_started = gr.State("")
    labels = _labels(
        {"class_noun": noun, "trigger": trigger, "base": base, "method": method, "preset": preset, **settings}
    )

    @tell
    def look(files: list[str] | None, chosen: str, base: str, before: list[list[str]] | None, written: dict[str, str]):
        found, listed = _report(context, files, chosen, base)
        rows = before or []
        kept = train_request.captions_by_photo([p.path for p in found.photos], rows) if any(rows) else written
        rows = [[photo.name, kept.get(str(photo.path), "")] for photo in found.photos]
        side = found.photos[0].crop.width if found.photos else 0
        return {
            shown_as: gr.Markdown(f"What is trained on: the middle, {side} × {side} pixels", visible=bool(side)),
            crops: gr.Gallery([(photo.crop, photo.name) for photo in found.photos], visible=bool(found.photos)),
            findings: gr.Markdown(_findings(found), visible=bool(listed)),
            to_real: gr.Button(visible=found.photographs is not None),
            captions_box: gr.Accordion(visible=bool(found.photos) and not chosen),
            captions: rows,
            paths: [str(photo.path) for photo in found.photos],
            **({} if listed else {written: {}}),  # the next photos are others
        }

    @tell
    def choose(chosen: str):
        return gr.File(visible=not chosen), train_request.sample_noun(context, chosen) if chosen else gr.skip()

    gr.on(
        [photos.change, sample.change, base.change],
        look,
        [photos, sample, base, captions, written],
        [shown_as, crops, findings, to_real, captions_box, captions, paths, written],
        show_progress_on=photos,
        api_visibility="private",
    )
    # Choices of the user's: a draft that is brought back has a noun, steps and a rank of its own.
    sample.input(choose, sample, [photos, noun], show_progress="hidden", api_visibility="private")
    preset.input(
        lambda chosen: (gr.Radio(info=_why(chosen)), _of_preset(chosen, "steps"), _of_preset(chosen, "rank")),
        preset,
        [preset, settings["steps"], settings["rank"]],
        show_progress="hidden",
        api_visibility="private",
    )
    to_real.click(lambda: "sd15", outputs=base, api_visibility="private")

    @tell
    def begin(files, chosen, rows, listed, noun, trigger, base, method, preset, name, *given):
        texts = train_request.captions_by_photo([Path(path) for path in listed], rows) if not chosen else {}
        try:
            started = train_request.start(
                context, runs,
                photos=[Path(file) for file in files or []] if not chosen else [],
                captions=texts, sample=chosen or None, name=name or "", class_noun=noun, trigger=trigger, base=base,
                method=method, preset=None if preset == "default" else preset, settings=_given(settings, given),
            )  # fmt: skip
        except Problems as error:
            raise labelled(error, labels) from None
        first = runs.start_next()
        shown = html.escape(started)
        gr.Info(f"{shown} starts." if first == started else f"{shown} waits for its turn.", duration=4)
        return started

    start_button.click(
        begin,
        [photos, sample, captions, paths, noun, trigger, base, method, preset, name, *settings.values()],
        name_started,
        api_visibility="private",
    )

    boxes = {
        "photos": photos, "sample": sample, "captions": captions, "noun": noun, "trigger": trigger, "base": base,
        "method": method, "preset": preset, "name": name, **settings,
    }  # fmt: skip

    def bring_back(kept: Values, files: Named) -> list[Any]:
        """The boxes as they were before the page was loaded again, and the captions by path."""
        sent = sent_before(context, kept["photos"], files)
        values = {
            "photos": gr.File(sent, visible=not kept["sample"]),
            "preset": gr.Radio(value=kept["preset"], info=_why(kept["preset"])),
        }
        rows = values["captions"] = kept["captions"]["data"]
        told = train_request.captions_by_photo([Path(path) for path in sent], rows)
        return [*(values.get(name, kept[name]) for name in boxes), told]

    shared.draft.add("train", boxes, bring_back, [*boxes.values(), written])
    return name_started


def _settings() -> dict[str, Any]:
    """More settings, by their flat names. No limits here: the trainer's own checks name every wrong one at once."""
    made = {}
    with gr.Row():
        for key, label in (("steps", "Steps"), ("rank", "Rank"), ("batch_size", "Batch size")):
            made[key] = gr.Number(_default(key), label=label, precision=0, min_width=90)
    with gr.Row():
        made["lr"] = gr.Number(0, label="Learning rate", info="0: the method's", min_width=90)
        made["seed"] = gr.Number(_default("seed"), label="Seed", info="same seed, same run", precision=0, min_width=90)
    with gr.Row():
        made["sample_every"] = gr.Number(
            train_request.SAMPLE_EVERY, label="Steps between pictures", info="0: none", precision=0, min_width=90
        )
        made["checkpoint_every"] = gr.Number(
            _default("checkpoint_every"), label="Steps between saves", info="0: at the end", precision=0, min_width=90
        )
    made["sample_prompts"] = gr.Textbox(
        label="Prompts of the pictures, one a line",
        lines=2,
        placeholder="two scenes of the base's language",
        info=f"None given: two scenes of the base's language. {PLACEHOLDER} becomes trigger and class noun.",
    )
    made["flip"] = gr.Checkbox(False, label="Mirror half of the samples", info=describe("flip"))
    return made


def _labels(boxes: dict[str, Any]) -> dict[str, str]:
    """What stands beside the boxes of these settings, by each key that a problem may have: flat, or with its section.

    The photos' box says what to do with it, so they are called as their part of the form is.
    """
    labels = {name: box.label for name, box in boxes.items()} | {"images": "Photos"}
    sections = {f"{section}.{name}": labels[name] for name, (section, _) in fields().items() if name in labels}
    return labels | sections | {"photos": "Photos"}


def _of_preset(preset: str, key: str) -> Any:
    """What a setting starts from with this preset."""
    given = PRESETS[preset].settings if preset in PRESETS else {}
    return given.get(fields()[key][0], {}).get(key, _default(key))


def _why(preset: str) -> str:
    if preset not in PRESETS:
        return f"{_default('steps')} steps at rank {_default('rank')}."
    return PRESETS[preset].why[0].upper() + PRESETS[preset].why[1:] + "."


def _default(key: str) -> Any:
    return fields()[key][1].default


def _given(settings: dict[str, Any], values: tuple[Any, ...]) -> dict[str, Any]:
    given = {key: value for key, value in zip(settings, values, strict=True) if value is not None and value != ""}
    given = {key: value for key, value in given.items() if not (key == "lr" and value == 0)}
    if "sample_prompts" in given:
        given["sample_prompts"] = [line.strip() for line in given["sample_prompts"].splitlines() if line.strip()]
    return given


def _report(context: Context, files: list[str] | None, chosen: str, base: str) -> tuple[Report, list[Path]]:
    """The look at the uploaded files, or at a sample subject, and what was looked at."""
    if chosen:
        from symdream.data.images import find_images

        listed = find_images(train_request.sample_folder(context, chosen))
    else:
        listed = [context.check_path(file) for file in files or []]
    sprite = str(base or "").strip() == EMBEDDED
    return check(listed, side_of(context, base), sprite=sprite), listed


def _findings(report: Report) -> str:
    """What was found as a list, worst first; a good word where nothing was."""
    lines = [f"- **Not used:** {no_markdown(text)}" for text in report.refused]
    lines += [f"- {text}" for text in report.notes]
    for photo in report.photos:
        lines += [f"- **{no_markdown(photo.name)}:** {no_markdown(note)}" for note in photo.notes]
    if report.photographs:
        lines.append(f"- **{no_markdown(without_flags(report.photographs))}**")
    return "\n".join(lines) or f"{len(report.photos)} photos, nothing to complain about."
