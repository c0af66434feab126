"""How much memory this process took at its peak."""

from __future__ import annotations

import resource
import sys

import torch


def peak_memory() -> int:
    """Bytes at the peak: reserved on the GPU where one is used, else the process's resident memory."""
    if torch.cuda.is_available() and torch.cuda.max_memory_reserved():
        return torch.cuda.max_memory_reserved()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
