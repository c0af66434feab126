"""What exporting and inspecting an adapter of Stable Diffusion 1.5's size costs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from helpers.sd15_adapter import write_sd15_singlora

EXPORT = """
import json, re, sys, time
from pathlib import Path
import symdream.interop.export as interop
def peak(): return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
# The first use of torch's and numpy's linear algebra loads libraries: an import by another name.
from symdream.interop.spectrum import core_svd; import numpy; core_svd(numpy.eye(3), numpy.eye(3))
Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the imports (proc(5))
before, start = peak(), time.process_time()
result = interop.export(Path(sys.argv[1]), "diffusers", Path(sys.argv[2]))
print(json.dumps([time.process_time() - start, peak() - before, result.bytes]))
"""
INSPECT = """
import sys, time
from symdream.cli import run_command
assert run_command("inspect", [sys.argv[1], "--json"]) == 0
assert not {"torch", "diffusers", "transformers", "peft"} & set(sys.modules)
print(time.process_time(), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return write_sd15_singlora(tmp_path_factory.mktemp("sd15") / "adapter")


def run(code: str, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, env={"OMP_NUM_THREADS": "1"})


@pytest.mark.slow
def test_exporting_a_rank_16_adapter_takes_under_a_second_and_200_mb(adapter, tmp_path):
    seconds, memory, size = json.loads(run(EXPORT, adapter, tmp_path / "x.safetensors").stdout)
    print(f"export: {seconds:.2f} s of CPU, {memory / 1e6:.0f} MB more, file of {size / 1e6:.1f} MB")
    assert seconds < 1
    assert memory < 200e6 + size


def test_inspecting_needs_no_torch_and_under_a_second(adapter):
    done = run(INSPECT, adapter)
    facts = json.loads(done.stdout)
    print(f"inspect: {float(done.stderr):.2f} s of CPU, imports included")
    assert facts["components"] == {"unet": 128, "text_encoder": 48}
    assert all(layer["norm"] > 0 and len(layer["spectrum"]) == 16 for layer in facts["layers"])
    assert float(done.stderr) < 1
