"""What the GPU benchmarks share: contestants timed in turns, rows of results, a budget of time, a table.

A row is one comparison: contestants that do the same work, timed in turns in one process so that a warm or busy
machine serves or hurts all alike. Reported of each: the median over the rounds and the range that holds half of them.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

import symdream.quiet  # noqa: F401
from symdream.diffusion.dtypes import auto_dtype
from symdream.diffusion.group_norm import why_not

ROUNDS = 15


@dataclass(frozen=True)
class Setting:
    """Where and on what to measure. quick: few rounds and steps, for a look whether everything runs.

    rounds: at most so many in a row. deadline: reading of time.perf_counter() after which no row is begun, and no
    further round of one in progress.
    """

    device: torch.device
    dtype: torch.dtype
    shape: str
    quick: bool
    deadline: float = math.inf
    rounds: int = ROUNDS

    @staticmethod
    def here(shape: str | None = None, budget: float = math.inf) -> Setting:
        """The GPU with SD 1.5's shape where there is one; else this CPU with the embedded base, as a check."""
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        on_gpu = device.type == "cuda"
        deadline = time.perf_counter() + budget
        return Setting(device, auto_dtype(device.type), shape or ("sd15" if on_gpu else "sprite"), not on_gpu, deadline)


@dataclass(frozen=True)
class Row:
    """One comparison. seconds: a guess at what it takes on an H100, for the budget; `measure()` gives its result."""

    bench: str
    name: str
    seconds: float
    measure: Callable[[], dict]

    @property
    def title(self) -> str:
        return f"{self.bench} {self.name}"


class OutOfTime(Exception):
    """The budget was over before the contestants of a row were ready."""


@dataclass
class Contestant:
    """One way to do the work: `step()` does it once and may return before the device is done.

    samples: how many pictures a step takes. setup: seconds that building, warming up and recording took.
    memory: bytes at the peak of its first steps, the base's weights included (None: not measured here).
    """

    name: str
    step: Callable[[], object]
    samples: int
    setup: float = 0.0
    memory: int | None = None


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def enter(
    name: str, build: Callable[[], Callable[[], object]], samples: int, setting: Setting, held: int
) -> Contestant:
    """Build a contestant and let it take three steps alone; held: bytes of the weights that all share.

    Raises: OutOfTime after the deadline.
    """
    if time.perf_counter() > setting.deadline:
        raise OutOfTime(f"the budget was over before {name} was built")
    gc.collect()
    cuda = setting.device.type == "cuda"
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(setting.device)
        before = torch.cuda.memory_reserved(setting.device)
    start = time.perf_counter()
    step = build()
    step()
    wait(setting.device)
    setup = time.perf_counter() - start
    for _ in range(2):
        step()
    wait(setting.device)
    memory = held + torch.cuda.max_memory_reserved(setting.device) - before if cuda else None
    return Contestant(name, step, samples, setup, memory)


def alternate(contestants: Sequence[Contestant], setting: Setting, *, steps: int = 5, rounds: int = ROUNDS) -> dict:
    """Milliseconds a step of each: `rounds` rounds in which each takes `steps` steps, in an order that changes (fewer
    rounds where the setting has fewer).

    After the deadline no round but the first is begun; "all_ms" tells how many there were.
    """
    rounds = min(rounds, setting.rounds)
    if setting.quick:
        steps, rounds = 1, 3
    milliseconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    for number in range(rounds):
        if number and time.perf_counter() > setting.deadline:
            break
        turn = number % len(contestants)
        for contestant in [*contestants[turn:], *contestants[:turn]]:
            wait(setting.device)
            start = time.perf_counter()
            for _ in range(steps):
                contestant.step()
            wait(setting.device)
            milliseconds[contestant.name].append(1000 * (time.perf_counter() - start) / steps)
    return {
        c.name: {
            **spread(milliseconds[c.name]),
            "images_per_second": 1000 * c.samples / statistics.median(milliseconds[c.name]),
            "setup_seconds": c.setup,
            "peak_bytes": c.memory,
        }
        for c in contestants
    }


def spread(values: list[float]) -> dict:
    """Median, quartiles and all values, in milliseconds."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median_ms": statistics.median(values), "quartiles_ms": [low, high], "all_ms": values}


def ratios(times: dict, ours: str, theirs: Iterable[str]) -> dict[str, float]:
    """How many times faster `ours` is than each of `theirs`: quotients of the medians."""
    return {f"{name} / {ours}": times[name]["median_ms"] / times[ours]["median_ms"] for name in theirs if name in times}


def describe(setting: Setting) -> dict:
    """What the figures were measured on. kernels: whose group normalisation recordings take, unless a row says so."""
    import accelerate
    import diffusers
    import peft
    import transformers

    libraries = (torch, diffusers, transformers, peft, accelerate)
    return {
        "device": torch.cuda.get_device_name() if setting.device.type == "cuda" else platform.machine(),
        "dtype": str(setting.dtype).removeprefix("torch."),
        "shape": setting.shape,
        "kernels": kernels(setting),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{library.__name__: library.__version__ for library in libraries},
    }


def kernels(setting: Setting) -> str:
    """Whose group normalisation recordings take on this device: "ours", or PyTorch's and why."""
    reason = why_not(setting.device)
    return f"PyTorch's, since {reason}" if reason else "ours"


def run_rows(rows: Sequence[Row], setting: Setting, output: Path | None) -> dict:
    """Measure the rows that fit before the setting's deadline, in their order; write and print after each.

    Before a row, its guess is compared with what is left; guesses are corrected by how the rows before it went.
    A row that fails tells its error, and the next one runs. output: a .json file; a .md file with the table beside it.
    Its folder is made. Raises: SystemExit if it cannot be written, before anything is measured.
    """
    begun, slower = time.perf_counter(), 1.0
    budget = setting.deadline - begun if math.isfinite(setting.deadline) else None  # infinity is no JSON
    report: dict = {"machine": describe(setting), "budget_seconds": budget, "rows": [], "seconds": 0}
    if output:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            if output.exists():  # the figures of an earlier run stay until this one has some
                with output.open("a"):
                    pass
            else:
                write(report, output)
        except OSError as error:
            sys.exit(f"{output} cannot be written ({error.strerror}: {error.filename}); nothing was measured")
    for row in rows:
        start = time.perf_counter()
        left = setting.deadline - start
        result: dict = {"bench": row.bench, "name": row.name}
        if row.seconds * slower > left:
            result["skipped"] = f"needs about {row.seconds * slower:.0f} s, {left:.0f} s are left"
        else:
            try:
                result |= row.measure()
            except OutOfTime as error:
                result["skipped"] = str(error)
            except Exception as error:  # one row's out-of-memory must not cost the rows after it
                result["failed"] = f"{type(error).__name__}: {error}"
            result["seconds"] = time.perf_counter() - start
            if not setting.quick:
                slower = max(slower, result["seconds"] / row.seconds)
            gc.collect()
            if setting.device.type == "cuda":
                torch.cuda.empty_cache()
        report["rows"].append(result)
        report["seconds"] = time.perf_counter() - begun
        print(in_words(result), flush=True)
        if output:
            write(report, output)
    return report


def write(report: dict, output: Path) -> None:
    output.write_text(json.dumps(report, indent=2) + "\n")
    output.with_suffix(".md").write_text(table(report))


def in_words(result: dict) -> str:
    head = f"{result['bench']} {result['name']}"
    for why in ("skipped", "failed"):
        if why in result:
            return f"{head}: {why}: {result[why]}"
    lines = [f"{head} ({result['seconds']:.0f} s)"]
    for name, time_ in result.get("times", {}).items():
        low, high = time_["quartiles_ms"]
        memory = f", {time_['peak_bytes'] / 2**30:.2f} GiB" if time_.get("peak_bytes") else ""
        lines.append(f"  {name:34} {time_['median_ms']:9.1f} ms ({low:.1f} to {high:.1f}){memory}")
    lines += [f"  {name} = {value:.2f}" for name, value in result.get("ratios", {}).items()]
    lines += [f"  {name}: {value}" for name, value in result.get("facts", {}).items()]
    return "\n".join(lines)


def table(report: dict) -> str:
    """Everything measured, as Markdown."""
    told = ", ".join(f"{name} {value}" for name, value in report["machine"].items())
    lines = [
        f"# Measured\n\n{told}. {report['seconds']:.0f} s.\n",
        "| benchmark | row | contestant | ms, median | quartiles | images/s | peak GiB | setup s |",
        "|---|---|---|---:|---|---:|---:|---:|",
    ]
    notes = []
    for result in report["rows"]:
        where = f"| {result['bench']} | {result['name']} |"
        for why in ("skipped", "failed"):
            if why in result:
                lines.append(f"{where} {why}: {' '.join(result[why].split())[:200]} | | | | | |")
        for name, t in result.get("times", {}).items():
            low, high = t["quartiles_ms"]
            memory = f"{t['peak_bytes'] / 2**30:.2f}" if t.get("peak_bytes") else ""
            lines.append(
                f"{where} {name} | {t['median_ms']:.1f} | {low:.1f} to {high:.1f} | {t['images_per_second']:.2f} "
                f"| {memory} | {t['setup_seconds']:.1f} |"
            )
        for name, value in result.get("ratios", {}).items():
            notes.append(f"- {result['bench']} {result['name']}: {name} = {value:.2f}")
        for name, value in result.get("facts", {}).items():
            notes.append(f"- {result['bench']} {result['name']}: {name}: {value}")
    return "\n".join([*lines, "", *notes]) + "\n"


def main(doc: str, rows_of: Callable[[Setting], list[Row]]) -> None:
    """The command around one benchmark's rows."""
    from benchmarks.shapes import SHAPES  # not above: processes that are timed from their start import this module

    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, help="of the base (default: sd15 on a GPU, sprite on a CPU)")
    parser.add_argument("--quick", action="store_true", help="few rounds: shows that it runs, measures little")
    parser.add_argument("--budget", type=float, default=float("inf"), help="seconds")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"at most so many in a row (default {ROUNDS})")
    parser.add_argument("--output", type=Path, help="write a JSON file, and a table beside it")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error("--rounds must be at least 1")
    setting = replace(Setting.here(args.shape, args.budget), rounds=args.rounds)
    if args.quick:
        setting = replace(setting, quick=True)
    report = run_rows(rows_of(setting), setting, args.output)
    if any("failed" in row for row in report["rows"]):
        sys.exit(1)
