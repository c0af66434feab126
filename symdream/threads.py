"""How PyTorch's CPU threads wait for each other."""

from __future__ import annotations

import os


def choose_waiting() -> None:
    """Let OpenMP threads spin only briefly when the machine is busy; call before torch is imported.

    A training step on sprite has about 1,500 parallel regions. On 2 idle cores the usual long spin is the fastest
    (0.70 s a step against 0.82 s). But as soon as another process wants a core, each region waits for a thread that
    is not running: 3 to 20 s a step against 1 to 4 s (benchmarks/busy_cpu.py). A value that the user set stays.
    """
    if os.getloadavg()[0] > 0.3 * (os.cpu_count() or 1) and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
