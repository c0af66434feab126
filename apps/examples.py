"""Example prompts of each sample subject, with the trigger of a chosen adapter where there is one."""

from __future__ import annotations

import gradio as gr

from symdream.data.captions import PLACEHOLDER, fill
from symdream.errors import RequestError
from symdream.metrics.prompts import PromptSet, read_prompts
from symdream_apps.adapters import read_card
from symdream_apps.context import Context
from symdream_apps.events import PRIVATE

SHOWN = 6


def subjects(context: Context) -> dict[str, PromptSet]:
    """The prompts of every sample subject, by its name."""
    return {
        folder.name: read_prompts(folder / "prompts.toml")
        for folder in sorted(context.samples.iterdir())
        if (folder / "prompts.toml").is_file()
    }


def build(context: Context, prompt: gr.Textbox, chosen: gr.Dropdown) -> None:
    """Lay the examples out here; a click puts one into `prompt`."""
    known = subjects(context)
    names = list(known)
    with gr.Accordion("Example prompts", open=False, elem_id="examples"):
        subject = gr.Dropdown(
            [(name.replace("_", " "), name) for name in names], value=names[0], label="of the subject"
        )
        listed = gr.Dataset(
            components=[gr.Textbox(visible=False)], samples=texts(known[names[0]]), headers=["prompt"], label="Prompts",
            samples_per_page=SHOWN, type="values", elem_id="example-prompts",
        )  # fmt: skip
    subject.change(lambda name: gr.Dataset(samples=texts(known[name])), subject, listed, queue=False, **PRIVATE)
    listed.click(
        lambda sample, name, paths: filled(context, sample[0], known[name].class_noun, paths),
        [listed, subject, chosen],
        prompt,
        queue=False,
        **PRIVATE,
    )


def texts(prompts: PromptSet) -> list[list[str]]:
    return [[prompt.text] for prompt in prompts.prompts]


def filled(context: Context, text: str, class_noun: str | None, chosen: list[str] | None) -> str:
    """The example with {subject} as the first chosen adapter calls it, else as what the sample subject is."""
    for path in chosen or []:
        try:
            card = read_card(context, path)
        except RequestError:
            continue
        if card.words:
            return text.replace(PLACEHOLDER, card.words)
    return fill(text, trigger="", class_noun=class_noun or "")
