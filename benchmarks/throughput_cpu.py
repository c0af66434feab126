"""The trainer's whole loop against a bare loop with PEFT's LoRA, on the embedded base and CPU.

    python benchmarks/throughput_cpu.py [--method singlora] [--pairs 40] [--rank 8] [--batch 4] [--output FILE.json]

One process trains with every default on (draws of image, timestep and noise, resampled latents, schedule, ramp,
clipping, the watch over NaN, metrics.jsonl, TensorBoard, progress, the look for a stop file, checkpoints) and stops
after each step for one step of a bare loop: the same base, LoRA of the same rank on the same projections, batches drawn
beforehand, forward, backward, AdamW and nothing else. So both meet the same busy or quiet machine. Reported: the
median over the pairs of (time of the bare step / time of the trainer's), which is the trainer's throughput as a part
of the bare loop's, with its 95 % sign interval.
"""

from __future__ import annotations

import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # for benchmarks.*, from any working folder

from symdream.threads import choose_waiting  # noqa: E402

choose_waiting()  # as the symdream command does, before torch is imported

import torch  # noqa: E402

from benchmarks.pairs import run, sign_interval  # noqa: E402
from benchmarks.step_cpu import Trainee, draw  # noqa: E402
from symdream import settings  # noqa: E402
from symdream import train as trainer  # noqa: E402
from symdream.commands.demo import SUBJECT  # noqa: E402
from symdream.data.samples import sample_data  # noqa: E402
from symdream.diffusion.base import load_base  # noqa: E402
from symdream.training.interrupt import StopRequest  # noqa: E402
from symdream.training.run_folder import RunFolder  # noqa: E402
from symdream.training.session import run_training  # noqa: E402
from symdream.tuners import METHODS  # noqa: E402

WARMUP = 3


def measure(method: str, pairs: int, rank: int, batch: int) -> dict:
    base = load_base("sprite")
    bare = Trainee(base, "lora", rank)
    generator = torch.Generator().manual_seed(0)
    inputs = [draw(base, batch, generator) for _ in range(8)]
    seconds: dict[str, list[float]] = {"trainer": [], "bare": []}

    class TakingTurns(StopRequest):
        """The trainer asks once in every step whether to stop: then the bare loop takes its own."""

        resumed = None

        def requested(self, accelerator) -> bool:
            asked = super().requested(accelerator)
            if self.resumed is not None:
                seconds["trainer"].append(time.perf_counter() - self.resumed)
                seconds["bare"].append(bare.step(*inputs[len(seconds["bare"]) % len(inputs)]))
            self.resumed = time.perf_counter()
            return asked

    given = {"images": sample_data() / SUBJECT, "class_noun": "bird", "device": "cpu", "method": method, "rank": rank,
             "batch_size": batch, "steps": pairs + WARMUP + 2}  # fmt: skip
    trainer.StopRequest = TakingTurns
    try:
        with tempfile.TemporaryDirectory() as temporary:
            run_training(RunFolder.create(Path(temporary) / "run"), settings.build(settings.merge({}, given)))
    finally:
        trainer.StopRequest = StopRequest
    seconds = {name: times[WARMUP:] for name, times in seconds.items()}
    assert len(seconds["bare"]) == len(seconds["trainer"]) == pairs
    ratios = [b / t for b, t in zip(seconds["bare"], seconds["trainer"], strict=True)]
    return {
        "method": method,
        "rank": rank,
        "batch": batch,
        "pairs": pairs,
        "median_throughput": statistics.median(ratios),
        "interval_95": sign_interval(ratios),
        "median_seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "seconds": seconds,
    }


def main() -> None:
    run(
        __doc__,
        measure,
        lambda r: f"{r['method']} r{r['rank']} in the trainer: {r['median_throughput']:.3f} of a bare loop's with LoRA",
        pairs=40,
        methods=list(METHODS),
    )


if __name__ == "__main__":
    main()
