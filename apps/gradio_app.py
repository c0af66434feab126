"""The app: `python apps/gradio_app.py` from a checkout, `symdream app` from anywhere."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # The command sets the environment before gradio is imported, so nothing may import it here.
    from symdream.cli import run_command

    sys.exit(run_command("app", sys.argv[1:]))

import gradio as gr

from symdream_apps import api, compare_page, generate_page, library_page, train_page
from symdream_apps.context import Context
from symdream_apps.events import PRIVATE
from symdream_apps.history import new_owner
from symdream_apps.shared import Shared
from symdream_apps.signed_out import LOG_OUT
from symdream_apps.work import Desk

TITLE = "symdream"
HEAD_LINE = "Teach Stable Diffusion one subject from a few photos, and put it in new scenes."
CACHE_HOURS = 24  # what browsers sent and gradio served is removed after that


def build(context: Context, desk: Desk, *, login: bool = False) -> gr.Blocks:
    """All pages of the app as one gradio Blocks; `desk` does its work. login: whether the app asks who is there."""
    pages = {
        "generate": ("Generate", generate_page),
        "compare": ("Compare", compare_page),
        "train": ("Train", train_page),
        "library": ("Library", library_page),
    }
    cache = (3600, CACHE_HOURS * 3600)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True, delete_cache=cache) as blocks:
        gr.Markdown(f"# {TITLE}\n{HEAD_LINE}", elem_id="head")
        if login:
            gr.HTML(LOG_OUT, elem_id="log-out", padding=False)
        tabs = gr.Tabs(selected="generate")
        shared = Shared.across(tabs, context, desk)  # outside: gradio counts whatever lies in Tabs as a tab
        with tabs:
            for key, (label, page) in pages.items():
                with gr.Tab(label, id=key):
                    page.build(context, shared)
        shared.draft.connect()
        api.build(context, shared)

        def leave(request: gr.Request) -> None:
            shared.desk.stop(request.session_hash)  # a page or client that is gone waits for no pictures

        blocks.unload(leave)
        list(blocks.default_config.fns.values())[-1].api_visibility = "private"  # for which unload has no argument
        blocks.load(lambda owner: owner or new_owner(), shared.browser, shared.browser, **PRIVATE)
    return blocks
