"""The button "Stop" of a page that makes pictures: it ends what is at work, and takes back what waits in the queue."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gradio as gr

from symdream_apps.events import PRIVATE
from symdream_apps.shared import Shared
from symdream_apps.status import status

# By the browser itself, at the click: the app's first answer comes when what others asked for is done.
ON = "() => ({__type__: 'update', interactive: true, variant: 'stop'})"
OFF = "() => ({__type__: 'update', interactive: false, variant: 'secondary'})"


def ready(triggers: Sequence[Any], stop: gr.Button) -> None:
    """Let `stop` be pressed from `triggers` on. Call it before their event is made: gradio ends one before the next."""
    gr.on(triggers, None, None, stop, js=ON, **PRIVATE)


def connect(shared: Shared, stop: gr.Button, asked: Any, line: gr.HTML) -> None:
    """Let `stop` end what the event `asked` does, and say so on `line` where it had not begun."""
    taken_back = gr.State(None)

    def end(request: gr.Request) -> Any:
        # What is at work ends by itself, with what is finished; to cancel its event would lose that.
        return gr.skip() if shared.desk.stop(request.session_hash) else time.time()

    asked.failure(None, None, stop, js=OFF, **PRIVATE)
    stop.click(end, None, taken_back, **PRIVATE)  # outside the queue a State's change is not told
    taken_back.change(
        lambda: (status("Stopped."), gr.Button(interactive=False, variant="secondary")),
        None,
        [line, stop],
        cancels=[asked],
        queue=False,
        **PRIVATE,
    )
