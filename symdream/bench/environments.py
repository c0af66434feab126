"""On what a comparison was computed: device, number format, versions. Several, where it went on elsewhere."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from symdream import __version__
from symdream.diffusion.machine import device_name, package_versions

if TYPE_CHECKING:
    from symdream.diffusion.base import Base


def environment(base: Base) -> dict[str, Any]:
    """What a start computes on, for results.json."""
    return {
        "device": device_name(base.device),
        "dtype": str(base.dtype).removeprefix("torch."),
        "cpu_cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "symdream": __version__,
    }


def environments_of(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that the cells of a results.json were computed on, the earliest first."""
    return content.get("environments") or [content["environment"]]


def distinct(environments: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each once; one that tells less (older results lack the number format) is the one that tells more."""
    once = [one for i, one in enumerate(environments) if one not in environments[:i]]
    return [one for one in once if not any(one.items() < other.items() for other in once)]


def mixed(content: Mapping[str, Any]) -> str | None:
    """A note for the reader, if cells were computed in different ways: what differs then is not the method alone."""
    found = environments_of(content)
    names = {"device": "devices", "dtype": "number formats", "packages": "versions", "symdream": "versions of symdream"}
    # Older results lack the number format.
    values = {told: [one[key] for one in found if key in one] for key, told in names.items()}
    differing = [told for told, each in values.items() if any(value != each[0] for value in each)]
    if not differing:
        return None
    return f"Cells were computed on several {' and '.join(differing)} (named below); a difference may come from these."
