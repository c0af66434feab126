"""Every GPU benchmark, in order of worth, within a budget of time.

    PYTHONPATH=. python benchmarks/run_gpu.py --budget SECONDS [--output gpu.json] [--rounds N] [--only TEXT ...]

Before each row and each of its rounds the budget is checked; after each row a JSON file and a Markdown table beside it
are written, so that a run that is cut off leaves what it found. No installation is needed beyond torch, diffusers,
transformers, peft and accelerate. On a CPU the same code runs on the embedded base, as a check and not for its figures.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

from benchmarks import batched, memory, sampling, step_gpu, time_to_adapter  # noqa: E402
from benchmarks.rows import ROUNDS, Row, Setting, run_rows  # noqa: E402


def in_order_of_worth(setting: Setting) -> list[Row]:
    """First what the goals are about, once; then more batches, methods and shapes."""
    step, sample = step_gpu.rows(setting), sampling.rows(setting)
    first = 1 if setting.quick else 2
    later = step[first:] + sample[1:]
    if not setting.quick:
        xl = replace(setting, shape="sdxl")
        later += step_gpu.rows(xl)[:1] + sampling.rows(xl)[:1]
    return [
        *step[:first],
        *sample[:1],
        *batched.rows(setting),
        *memory.rows(setting),
        *time_to_adapter.rows(setting),
        *later,
    ]


def chosen(rows: list[Row], texts: list[str]) -> list[Row]:
    """The rows with one of these texts in their title. Raises: ValueError if a text is in none."""
    if unknown := [text for text in texts if not any(text in row.title for row in rows)]:
        titles = "; ".join(row.title for row in rows)
        raise ValueError(f"no row has {' or '.join(map(repr, unknown))} in its title; there are: {titles}")
    return [row for row in rows if any(text in row.title for text in texts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, required=True, help="seconds")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at most so many in a row (default {ROUNDS})")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help='rows with one of these in their title: "batch 4"')
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), help="JSON file; a table (.md) beside it")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    setting = replace(Setting.here(budget=args.budget), rounds=args.rounds)
    rows = in_order_of_worth(setting)
    if args.only:
        try:
            rows = chosen(rows, args.only)
        except ValueError as error:
            parser.error(f"--only: {error}")
    report = run_rows(rows, setting, args.output)
    print(f"\n{args.output} and {args.output.with_suffix('.md')}: {report['seconds']:.0f} s")
    if any("failed" in row for row in report["rows"]):
        sys.exit(1)


if __name__ == "__main__":
    main()
