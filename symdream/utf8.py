"""Names that are no Unicode: files may have them, TOML, JSON and safetensors cannot."""

from __future__ import annotations

from pathlib import Path


def is_utf8(text: str | Path) -> bool:
    """Whether `text`, in which Python keeps foreign bytes as lone surrogates, is Unicode all through."""
    try:
        str(text).encode()
    except UnicodeEncodeError:
        return False
    return True
