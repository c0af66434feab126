"""What the benchmarks share that time two things in turns: the interval of a median, and the command around it."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import symdream.quiet  # noqa: F401


def sign_interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """Order statistics that enclose the median with at least this probability (binomial with p = 1/2)."""
    n, below, tail = len(values), 0, 0.0
    while tail + math.comb(n, below) / 2**n <= (1 - level) / 2:
        tail += math.comb(n, below) / 2**n
        below += 1
    ordered = sorted(values)
    return ordered[max(below - 1, 0)], ordered[min(n - below, n - 1)]


def run(
    doc: str,
    measure: Callable[[str, int, int, int], dict],
    headline: Callable[[dict], str],
    *,
    pairs: int,
    methods: Sequence[str],
) -> dict:
    """Parse the flags, `measure(method, pairs, rank, batch)`, print `headline(result)` with interval and medians.

    pairs: how many unless asked otherwise. methods: which may be asked for.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--method", default="singlora", choices=methods)
    parser.add_argument("--pairs", type=int, default=pairs, help="at least 30 for a figure worth quoting")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--output", type=Path, help="write everything, single times included, to this JSON file")
    args = parser.parse_args()
    if min(args.pairs, args.rank, args.batch) < 1:
        parser.error("--pairs, --rank and --batch must be at least 1")
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)  # not to fail after all was measured
    result = measure(args.method, args.pairs, args.rank, args.batch)
    if args.output:
        args.output.write_text(json.dumps(result, indent=2) + "\n")
    low, high = result["interval_95"]
    times = {name: f"{1000 * t:.0f} ms" for name, t in result["median_seconds"].items()}
    print(headline(result))
    print(f"  95 % interval {low:.3f} to {high:.3f} over {args.pairs} pairs; medians {times}")
    return result
