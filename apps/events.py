"""How the pages' events are declared."""

from __future__ import annotations

# Every event that computes names these, so that one works at a time and the others wait in the queue.
ON_DEVICE = {"concurrency_id": "device", "concurrency_limit": 1}

# Events of the pages are no part of the API, which has endpoints of its own.
PRIVATE = {"api_visibility": "private", "show_progress": "hidden"}
