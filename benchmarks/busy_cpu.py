"""How long a training step takes when another process wants a core, by how long OpenMP threads spin.

    python benchmarks/busy_cpu.py            prints a table; needs nothing but CPU cores

Why symdream.threads shortens the spin on a busy machine. Each cell is a process of its own, since libgomp reads
GOMP_SPINCOUNT once; idle and busy cells alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys

SPINS = ("default", "0", "1000", "10000")
STEPS = 5

STEP = """
import json, sys, time, torch
from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
base = load_base("sprite")
attach(base, "singlora", 8, 8.0, "qkvo", ["unet", "text_encoder"], 0.0, 0)
x, t, ids = torch.randn(4, 4, 32, 32), torch.tensor([10, 200, 500, 900]), torch.randint(0, 2000, (4, 77))
seconds = []
for _ in range(int(sys.argv[1]) + 1):
    began = time.perf_counter()
    base.unet(x, t, base.text_encoder(ids)[0]).sample.pow(2).mean().backward()
    seconds.append(time.perf_counter() - began)
print(json.dumps(seconds[1:]))
"""


def measure(spin: str, busy: bool) -> float:
    """Median seconds of a step with this GOMP_SPINCOUNT, beside one process a core that computes if `busy`."""
    env = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
    if spin != "default":
        env["GOMP_SPINCOUNT"] = spin
    loop = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(loop) for _ in range(os.cpu_count() if busy else 0)]
    try:
        result = subprocess.run(
            [sys.executable, "-c", STEP, str(STEPS)], env=env, capture_output=True, text=True, check=True
        )
    finally:
        for other in others:
            other.kill()
    return statistics.median(json.loads(result.stdout.splitlines()[-1]))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| GOMP_SPINCOUNT | idle, s a step | busy, s a step |\n|---|---|---|")
    for spin in SPINS:
        print(f"| {spin} | {measure(spin, False):.2f} | {measure(spin, True):.2f} |", flush=True)


if __name__ == "__main__":
    main()
