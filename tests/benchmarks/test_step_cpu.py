"""The step benchmark runs and its interval covers the median as often as it says."""

import json
import math
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.pairs import sign_interval

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step_cpu.py"


def test_interval_of_thirty_values_is_the_tenth_to_the_twenty_first():
    assert sign_interval(list(range(1, 31))) == (10, 21)  # tables of the sign test, n = 30, 95 %


def test_interval_covers_the_true_median_at_least_95_times_in_100():
    source = random.Random(0)
    trials = [sign_interval([source.expovariate(1.0) for _ in range(40)]) for _ in range(2000)]
    truth = math.log(2)
    covered = sum(low <= truth <= high for low, high in trials)
    assert 0.95 <= covered / len(trials) < 0.99


@pytest.mark.slow
def test_the_benchmark_writes_every_time_it_measured(tmp_path):
    command = [sys.executable, str(SCRIPT), "--pairs", "2", "--batch", "1", "--output", str(tmp_path / "step.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1], check=True)
    result = json.loads((tmp_path / "step.json").read_text())
    assert f"{result['median_ratio']:.3f} of lora's step" in done.stdout
    assert {name: len(times) for name, times in result["seconds"].items()} == {"lora": 2, "singlora": 2}
    assert result["parameters"]["singlora"] <= 0.55 * result["parameters"]["lora"]
