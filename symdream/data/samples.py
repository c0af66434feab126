"""The sample subjects that come with symdream."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from symdream.errors import RequestError


def sample_data() -> Path:
    """The folder of the sample subjects, in a checkout and in an installed wheel.

    Raises: RequestError if this installation has none.
    """
    folder = Path(str(files("symdream"))) / "assets" / "sample_data"
    if not folder.is_dir():
        raise RequestError("This installation has no sample data.", fix="name pictures of your own with --images")
    return folder
