"""The bar, on a terminal."""

import os
import pty
from contextlib import suppress

from symdream.progress import Progress


def test_the_bar_takes_the_total_that_the_steps_tell(monkeypatch):
    terminal, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setenv("TERM", "xterm")
        with Progress("drawing", 1) as progress:
            progress.on_step(3, 6)
    shown = b""
    with suppress(OSError):  # Linux' end of a terminal; what is read at once may be the first part alone
        while part := os.read(terminal, 65536):
            shown += part
    os.close(terminal)
    shown = shown.decode()
    assert "3/6" in shown and "3/1" not in shown
