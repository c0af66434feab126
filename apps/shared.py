"""What the pages share: the tabs, one device for all work, and handing an adapter from page to page."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import gradio as gr

from symdream_apps.context import Context
from symdream_apps.draft import Draft
from symdream_apps.history import History
from symdream_apps.studio import Studio
from symdream_apps.work import Desk

PAGES = ("generate", "compare", "train", "library")


@dataclass
class Shared:
    """Cross-page hooks. To send an adapter to another page:

        button.click(lambda path: shared.hand_over("generate", path), inputs, shared.receivers)

    and there, to take it: `shared.handed.change(function, shared.handed, outputs)`, where the function looks at
    `handed["page"]` and returns gr.skip() if it is not its own.
    """

    tabs: gr.Tabs
    handed: gr.State
    kept: gr.State  # set to anything new once pictures are in the history
    browser: gr.BrowserState  # the name under which this browser's pictures are kept
    dropped: gr.State  # paths of the adapter files that were dropped in this tab, in that order
    draft: Draft
    studio: Studio
    desk: Desk
    history: History

    @classmethod
    def across(cls, tabs: gr.Tabs, context: Context, desk: Desk) -> Shared:
        """What the pages in `tabs` share, inside of the Blocks that is open now."""
        # gradio encrypts with a key that it sends along; it is fixed so that a restart of the app loses no history.
        browser = gr.BrowserState(storage_key="symdream-owner", secret="symdream-owner-")
        handed, kept, dropped = gr.State(None), gr.State(None), gr.State([])
        draft = Draft(context, dropped)
        return cls(tabs, handed, kept, browser, dropped, draft, desk.studio, desk, History(context))

    @property
    def receivers(self) -> list[Any]:
        """The outputs of an event that hands over."""
        return [self.tabs, self.handed]

    def hand_over(self, page: str, *paths: str) -> tuple[Any, dict[str, Any]]:
        """Select the tab `page` and give it these adapters ("try" and "compare": "generate" and "compare")."""
        assert page in PAGES
        # The time makes the same adapter handed over twice a change.
        return gr.Tabs(selected=page), {"page": page, "paths": [str(p) for p in paths], "at": time.time()}
