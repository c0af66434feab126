"""What checkpoints cost a training run on the embedded base and CPU.

    python benchmarks/checkpoint_cost.py [--method singlora] [--rank 8] [--batch 4] [--steps 20] [--folder DIR]

Trains with the defaults but a checkpoint after every step, and times all that a checkpoint adds to the loop: bringing
metrics.jsonl to the disk, the checkpoint itself (fsync and pruning included, so the disk under --folder counts),
state.json. A step is what remains between two of them. The share is

    share = n c / (N s + n c),   c, s = median seconds of a checkpoint and of a step

for a run of the default N steps with its n checkpoints at the default interval.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import symdream.quiet  # noqa: F401
from symdream.threads import choose_waiting

choose_waiting()  # as the symdream command does, before torch is imported

from symdream import settings  # noqa: E402
from symdream.commands.demo import SUBJECT  # noqa: E402
from symdream.config import Output, Training  # noqa: E402
from symdream.data.samples import sample_data  # noqa: E402
from symdream.training import checkpoint  # noqa: E402
from symdream.training.recorder import Recorder  # noqa: E402
from symdream.training.run_folder import RunFolder  # noqa: E402
from symdream.training.session import run_training  # noqa: E402
from symdream.tuners import METHODS  # noqa: E402


@contextmanager
def timed(place: Any, name: str, spans: list[tuple[str, float, float]]) -> Iterator[None]:
    """While entered, every call of `place.name` notes (name, start, end)."""
    original = getattr(place, name)

    def timing(*args, **kwargs):
        start = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            spans.append((name, start, time.perf_counter()))

    setattr(place, name, timing)
    try:
        yield
    finally:
        setattr(place, name, original)


def measure(flags: dict[str, Any], folder: Path) -> dict[str, float]:
    """Seconds of a step and of a checkpoint (medians; the first of each warms up), and a checkpoint's bytes."""
    spans: list[tuple[str, float, float]] = []
    given = {"images": sample_data() / SUBJECT, "class_noun": "bird", "device": "cpu", "checkpoint_every": 1, **flags}
    run = RunFolder.create(folder / "run")
    with (
        timed(Recorder, "flush", spans),
        timed(checkpoint, "save_checkpoint", spans),
        timed(RunFolder, "write_state", spans),
    ):
        run_training(run, settings.build(settings.merge({}, given)))
    saves = [i for i, (name, *_) in enumerate(spans) if name == "save_checkpoint"]
    begins, ends = [spans[i - 1][1] for i in saves], [spans[i + 1][2] for i in saves]
    return {
        "checkpoint": statistics.median([end - begin for begin, end in zip(begins, ends, strict=True)][1:]),
        "step": statistics.median([begin - end for begin, end in zip(begins[1:], ends, strict=False)]),
        "bytes": sum(path.stat().st_size for path in checkpoint.list_checkpoints(run.checkpoints)[-1].iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--method", default="singlora", choices=METHODS)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20, help="how many steps, and checkpoints, are timed")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: the one for temporary files)")
    args = parser.parse_args()
    if args.steps < 2:  # the first one warms up
        parser.error("--steps must be at least 2")
    if min(args.rank, args.batch) < 1:
        parser.error("--rank and --batch must be at least 1")
    if args.folder and not args.folder.is_dir():
        parser.error(f"--folder: there is no folder {args.folder}")
    flags = {"method": args.method, "rank": args.rank, "batch_size": args.batch, "steps": args.steps}
    with tempfile.TemporaryDirectory(dir=args.folder) as temporary:
        figures = measure(flags, Path(temporary))
    steps = Training.model_fields["steps"].default
    every = Output.model_fields["checkpoint_every"].default
    count = math.ceil(steps / every)
    cost = count * figures["checkpoint"]
    share = cost / (steps * figures["step"] + cost)
    print(f"{args.method} r{args.rank} batch {args.batch}, medians over {args.steps} steps:")
    print(f"  a step {1000 * figures['step']:.0f} ms")
    print(f"  a checkpoint {1000 * figures['checkpoint']:.0f} ms ({figures['bytes'] / 2**20:.1f} MiB)")
    print(f"  {count} checkpoints in {steps} steps, one every {every}: {100 * share:.2f} % of the run's time")


if __name__ == "__main__":
    main()
