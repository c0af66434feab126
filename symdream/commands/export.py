"""Write an adapter for other tools: as a LoRA file, or merged into its base.

Exact: SingLoRA and SymLoRA become LoRA of the same rank in closed form. Beside a file, NAME.txt tells trigger and
prompts, and NAME.png shows what it does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from symdream.errors import Problem, Problems, collected
from symdream.utf8 import is_utf8
from symdream.writable import not_writable


@dataclass
class Args:
    adapter: Positional[Path]
    """Run folder, adapter folder, or adapter file (.safetensors, of any layout)."""
    to: Literal["diffusers", "kohya", "peft", "merged"]
    """diffusers: a file for diffusers and ComfyUI; kohya: a file for A1111, ComfyUI and kohya's tools; peft: a folder
    for each component; merged: the whole base with the adapter folded in."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File (.safetensors) for diffusers and kohya; folder for peft; merged takes either."""
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Number format of the weights."""
    compress: str | None = None
    """Reduce it to this rank (4) or file size (200KB); the error is told."""
    calibrate: bool = False
    """With --compress: keep what the base's answers owe most to, not what is largest, and teach it the answers of the
    whole adapter (two minutes on a CPU on sprite)."""
    weight: float | None = None
    """Scale it: its new weight 1 is this weight of now (default: 1; merged takes what its training found best). At
    other weights than 0 a DoRA, which only merged scales, keeps its magnitudes as trained."""
    add: list[str] = field(default_factory=list)
    """Other adapters to add into it, exactly: PATH or PATH:WEIGHT. Their ranks add up."""
    base: str | None = None
    """The base, if the adapter does not tell it (needed for merged only)."""
    overwrite: bool = False
    """Replace the output if it is there (a folder only by one of its kind), and the text and picture beside it."""


def check(args: Args) -> list[tuple[Path, float]]:
    """The adapters to add. Raises: Problems, all at once."""
    import math

    from symdream.diffusion.names import PICKLES
    from symdream.interop.companions import outputs
    from symdream.interop.size import parse_size
    from symdream.replacing import in_the_way

    problems = []
    is_file = args.output.suffix == ".safetensors"
    if args.to in ("diffusers", "kohya") and not is_file:
        problems.append(Problem(f"--output {args.output}", f"must end in .safetensors: --to {args.to} is one file"))
    if args.to == "peft" and is_file:
        problems.append(Problem(f"--output {args.output}", "must be a folder: --to peft has one for each component"))
    if args.to == "merged" and args.output.suffix.lower() in PICKLES:
        told = f"would be a folder of that name: {args.output.suffix} files are pickles, which symdream does not write"
        problems.append(Problem(f"--output {args.output}", f"{told}; end it in .safetensors for one file"))
    if args.to == "merged" and args.output.suffix.lower() == ".safetensors" and not is_file:
        problems.append(
            Problem(f"--output {args.output}", "would be a folder; a file ends in .safetensors, in lower case")
        )
    if not is_utf8(args.output):
        problems.append(Problem(f"--output {args.output}", "is not UTF-8; give it another name"))
    existing = [
        Problem(f"--output {path}", "; ".join(wrong))
        for path, kind in outputs(args.adapter, args.to, args.output).items()
        if (wrong := in_the_way(path, args.overwrite, kind))
    ]
    if existing:
        problems += existing
    elif wrong := not_writable(args.output, whole=True):
        problems.append(wrong)
    if args.compress is not None:
        with collected(problems, "--compress"):
            parse_size(args.compress)
    if args.to == "merged":
        for name in ("compress", "calibrate", "add"):
            if getattr(args, name):
                problems.append(Problem(f"--{name}", "does nothing with --to merged; export a LoRA first, merge that"))
    elif args.calibrate and not args.compress:
        problems.append(Problem("--calibrate", "does nothing without --compress"))
    if args.weight is not None and not math.isfinite(args.weight):
        problems.append(Problem(f"--weight {args.weight}", "must be a number"))
    added = [split(text) for text in args.add]
    for path in [args.adapter, *(path for path, _ in added)]:
        if not path.exists():
            problems.append(Problem(str(path), "does not exist"))
    if problems:
        raise Problems("the request", problems)
    return added


def split(text: str) -> tuple[Path, float]:
    """("cat.safetensors", 0.5) from "cat.safetensors:0.5"."""
    path, _, weight = text.rpartition(":")
    try:
        return (Path(path), float(weight)) if path else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def run(args: Args) -> int:
    added = check(args)
    from symdream.diffusion.dtypes import DTYPES
    from symdream.interop.export import export
    from symdream.ui import say

    result = export(
        args.adapter,
        args.to,
        args.output,
        dtype=DTYPES[args.dtype],
        compress=args.compress,
        calibrate=args.calibrate,
        weight=args.weight,
        added=added,
        base=args.base,
        overwrite=args.overwrite,
    )
    if report := result.report:
        say(f"{report.layers} layers, {report.parameters:,} numbers, {report.bytes:,} bytes")
        if args.compress:
            say(f"compressing changed the updates by {result.compression_error:.1%} (Frobenius, all layers together)")
        if args.dtype != "fp32":
            say(f"rounding to {report.dtype} changed the updates by {report.error:.2e} (relative)")
    else:
        say(f"the base with the adapter folded in, {result.bytes:,} bytes")
    for path in [result.path, *result.companions]:
        print(path)
    return 0
