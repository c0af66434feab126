"""The status line of a page: what is going on, how far it is, and what to know about the result."""

from __future__ import annotations

import html
from collections.abc import Sequence


def status(text: str, share: float | None = None, notes: Sequence[str] = (), *, wrong: bool = False) -> str:
    """The line as HTML, everything escaped: read out by screen readers as it changes, with the browser's own bar.

    text: its first line is the message, others follow below. share: 0 to 1 of the work is done.
    """
    first, *rest = text.splitlines() or [""]
    lines = [f'<p class="status-text{" wrong" if wrong else ""}">{html.escape(first)}</p>']
    lines += [f"<p>{html.escape(line.strip())}</p>" for line in rest]
    if share is not None:
        lines.append(f'<progress max="1" value="{share:.3f}" aria-label="progress"></progress>')
    if notes:
        lines.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    return f'<div role="status" aria-live="polite">{"".join(lines)}</div>'
