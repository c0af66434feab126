"""What this machine offers: device, number format, memory, versions."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# What can change a result: written beside every run.
PACKAGES = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors", "pillow")


@dataclass(frozen=True)
class Machine:
    """`memory` is what training may use, in bytes: free GPU memory on a GPU, else available RAM (None: unknown)."""

    device: str
    device_name: str
    dtype: str
    memory: int | None
    memory_kind: str
    cores: int
    versions: dict[str, str]
    note: str | None


def look_at_machine() -> Machine:
    import torch

    from symdream import __version__
    from symdream.diffusion.dtypes import auto_dtype

    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    dtype = str(auto_dtype(device)).removeprefix("torch.")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, memory, note = platform.processor() or platform.machine(), available_ram(), None
    if device == "cuda":
        name = torch.cuda.get_device_name()
        memory = torch.cuda.mem_get_info()[0]
        if torch.version.hip:
            note = "ROCm: untested"
    elif device == "mps":
        note = "Apple GPU: untested"
    return Machine(
        device=device,
        device_name=name,
        dtype=dtype,
        memory=memory,
        memory_kind="GPU memory" if device == "cuda" else "RAM",
        cores=cores,
        versions={
            "symdream": __version__,
            "python": platform.python_version(),
            **package_versions(),
            "torchvision": version("torchvision"),
        },
        note=note,
    )


def package_versions() -> dict[str, str]:
    """The versions of the packages that a result may depend on."""
    return {name: version(name) for name in PACKAGES}


def device_name(device: torch.device) -> str:
    """What it calls itself: "NVIDIA H100 80GB HBM3", or "cpu (x86_64)"."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} ({platform.machine()})"


def available_ram() -> int:
    """Bytes that a new process may take: the system's figure, or a container's own limit where that is lower."""
    import psutil

    available = psutil.virtual_memory().available
    limit = _control_group("memory.max")
    used = _control_group("memory.current")
    return available if limit is None or used is None else min(available, limit - used)


def _control_group(name: str) -> int | None:
    try:
        with open(f"/sys/fs/cgroup/{name}", encoding="ascii") as stream:
            return int(stream.read())
    except (OSError, ValueError):  # no control groups, or "max": no limit
        return None
