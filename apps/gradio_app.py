"""The app: `python apps/gradio_app.py` from a checkout, `symdream app` from anywhere."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # The command sets the environment before gradio is imported, so nothing may import it here.
    from symdream.cli import run_command

    sys.exit(run_command("app", sys.argv[1:]))

import gradio as gr

from symdream_apps.context import Context
from symdream_apps.shared import Shared

TITLE = "symdream"
HEAD_LINE = "Teach Stable Diffusion one subject from a few photos, and put it in new scenes."
CACHE_HOURS = 24  # what browsers sent and gradio served is removed after that


def build(context: Context) -> gr.Blocks:
    """All pages of the app as one gradio Blocks."""
    from symdream_apps import generate_page

    pages = {"generate": ("Generate", generate_page)}
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, CACHE_HOURS * 3600)) as blocks:
        gr.Markdown(f"# {TITLE}\n{HEAD_LINE}")
        with gr.Tabs() as tabs:
            shared = Shared(tabs, gr.State(None))
            for key, (label, page) in pages.items():
                with gr.Tab(label, id=key):
                    page.build(context, shared)
    return blocks
