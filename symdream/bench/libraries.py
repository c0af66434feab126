"""What statistics and report of a comparison need and symdream alone does not."""

from __future__ import annotations

from importlib.util import find_spec

from symdream.errors import RequestError

LIBRARIES = ("scipy", "matplotlib", "jinja2")


def require_libraries() -> None:
    """Raises: RequestError if what statistics and report need is not installed."""
    lacking = [name for name in LIBRARIES if find_spec(name) is None]
    if lacking:
        raise RequestError(
            f"A comparison needs {', '.join(lacking)}, which {'is' if len(lacking) == 1 else 'are'} not installed.",
            fix='pip install "symdream[bench]"',
        )
