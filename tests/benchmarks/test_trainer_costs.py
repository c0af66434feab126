"""The benchmarks of the trainer's own costs run, and tell figures that can be."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.slow


def run(script, *args):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, args)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_checkpoint_cost_tells_the_share_of_its_own_times(tmp_path):
    said = run("checkpoint_cost.py", "--steps", 4, "--batch", 1, "--rank", 2, "--folder", tmp_path)
    step, checkpoint = (int(re.search(rf"a {what} (\d+) ms", said)[1]) for what in ("step", "checkpoint"))
    count, steps, share = re.search(r"(\d+) checkpoints in (\d+) steps, .*: ([\d.]+) %", said).groups()
    cost = int(count) * checkpoint
    assert step > 0 and float(share) == pytest.approx(100 * cost / (int(steps) * step + cost), rel=0.1, abs=0.01)
    assert list(tmp_path.iterdir()) == []


def test_throughput_takes_as_many_turns_as_asked_for(tmp_path):
    said = run("throughput_cpu.py", "--pairs", 3, "--batch", 1, "--rank", 2, "--output", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    ratios = sorted(b / t for b, t in zip(result["seconds"]["bare"], result["seconds"]["trainer"], strict=True))
    assert len(ratios) == 3 and result["median_throughput"] == ratios[1]
    assert f"{ratios[1]:.3f}" in said
