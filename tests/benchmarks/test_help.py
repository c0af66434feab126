"""Every benchmark tells what it measures and how it is called, and nothing else."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
LIGHT = ("app.py", "busy_cpu.py")  # import no torch


def test_the_light_ones_are_scripts():
    assert set(LIGHT) < set(SCRIPTS)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in LIGHT else pytest.mark.slow) for name in SCRIPTS]
)
def test_a_benchmark_asked_for_help_starts_nothing(name):
    asked = [sys.executable, str(FOLDER / name), "--help"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=FOLDER.parent, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:") and not done.stderr
