"""What to change when memory runs out: the estimate as a function, and a process that really runs out."""

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symdream import settings
from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.diffusion.footprint import Footprint, measure
from symdream.errors import WorkError
from symdream.training.memory_advice import (
    advice,
    is_out_of_memory,
    known_footprint,
    lower_resolution,
    need,
    out_of_memory,
    out_of_memory_explained,
)
from symdream.tuners import METHODS

# About SD 1.5 with SingLoRA r8, in fp32.
SIZE = Footprint(
    unet=860_000_000,
    vae=84_000_000,
    text=123_000_000,
    adapter=845_000,
    text_adapter=295_000,
    activations=1.8e9,
    checkpointed=0.4e9,
    bytes_per_number=4,
)


def config(**flags):
    flags = {"method": "lora", "resolution": 512, **flags}
    return settings.build(settings.merge({}, flags))


def flags_of(changes):
    return [change.flags for change in changes]


def test_the_need_is_weights_adapters_activations_and_libraries():
    adapters = (845_000 + 295_000) * 16
    on_cpu = need(config(batch_size=4), SIZE, gpu=False)
    assert on_cpu == pytest.approx(1_067_000_000 * 4 + adapters + 4 * 1.8e9 + 1e9)
    on_gpu = need(config(batch_size=4), SIZE, gpu=True)
    assert on_cpu - on_gpu == pytest.approx(84_000_000 * 4), "the VAE waits elsewhere"


def test_what_costs_time_only_comes_first_and_the_larger_saving_before_the_smaller():
    found = advice(config(batch_size=4), SIZE, gpu=True, native_bf16=True)
    assert flags_of(found) == ["--gradient-checkpointing", "--batch-size 2 --accumulation 2", "--dtype bf16"]
    assert found[0].saving == pytest.approx(4 * 1.4e9)
    assert found[1].saving == pytest.approx(2 * 1.8e9)
    assert found[2].saving == pytest.approx((860_000_000 + 123_000_000) * 2 + 4 * 0.9e9)


def test_a_saving_is_the_difference_of_two_needs():
    before = config(batch_size=6, accumulation=2)
    change = next(c for c in advice(before, SIZE, gpu=False, native_bf16=False) if "batch" in c.flags)
    assert change.flags == "--batch-size 3 --accumulation 4"
    after = config(batch_size=3, accumulation=4)
    assert change.saving == need(before, SIZE, gpu=False) - need(after, SIZE, gpu=False)


def test_prior_preservation_doubles_the_pictures_and_can_be_given_up():
    plain, prior = config(batch_size=1), config(batch_size=1, class_count=100)
    assert need(prior, SIZE, gpu=False) - need(plain, SIZE, gpu=False) == pytest.approx(1.8e9)
    found = advice(prior, SIZE, gpu=False, native_bf16=False)
    assert {c.flags: c.saving for c in found}["--class-count 0"] == pytest.approx(1.8e9)


def test_nothing_is_named_that_the_run_does_already():
    small = config(batch_size=1, gradient_checkpointing=True, optimizer="adamw8bit", components="unet")
    half = Footprint(**{**vars(SIZE), "bytes_per_number": 2})
    found = advice(small, half, gpu=True, native_bf16=True)
    assert flags_of(found) == ["--resolution 384", "--rank 4"]


def test_a_cpu_gets_no_half_precision_and_an_old_gpu_gets_fp16():
    one = config(batch_size=1, gradient_checkpointing=True)
    assert not any("dtype" in flags for flags in flags_of(advice(one, SIZE, gpu=False, native_bf16=False)))
    assert "--dtype fp16" in flags_of(advice(one, SIZE, gpu=True, native_bf16=False))


def test_a_change_that_saves_next_to_nothing_gives_way_to_one_that_saves():
    one = config(batch_size=1, gradient_checkpointing=True)
    found = flags_of(advice(one, SIZE, gpu=False, native_bf16=False))
    assert found[0] == "--resolution 384" and "--optimizer adamw8bit" in found[1:]


@pytest.mark.parametrize(("resolution", "lower"), [(1024, 768), (512, 384), (320, 192), (128, 96), (64, None)])
def test_the_next_resolution_lies_on_the_grid(resolution, lower):
    assert lower_resolution(resolution) == lower


def test_every_named_flag_is_a_setting():
    known = settings.fields()
    for gpu in (True, False):
        for change in advice(config(batch_size=4), SIZE, gpu=gpu, native_bf16=True):
            for flag in re.findall(r"--([\w-]+)", change.flags):
                assert flag.replace("-", "_") in known


def test_the_message_holds_need_changes_and_savings():
    error = out_of_memory(config(batch_size=4), SIZE, gpu=True, native_bf16=True, said="CUDA out of memory.")
    assert "batch 4 at 512 pixels needs about 12.2 GB" in error.what
    assert "--gradient-checkpointing: saves about 5.6 GB; same result" in error.fix


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("unable to mmap 15012592 bytes from file <x>: Cannot allocate memory (12)"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shapes do not match"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_failures(error, expected):
    assert is_out_of_memory(error) is expected


@pytest.mark.parametrize("method", METHODS)
def test_memory_that_runs_out_is_explained_for_every_method(tiny_sd1, method):
    base = load_base(str(tiny_sd1))
    attach(base, method, 4, 4.0, "qkvo", ["unet", "text_encoder"], 0.0, 0)
    request = config(method=method, resolution=128, batch_size=64)
    with pytest.raises(WorkError) as caught, out_of_memory_explained(request, base):
        raise MemoryError
    assert caught.value.what.startswith("Out of memory: batch 64 at 128 pixels needs about")
    assert "--gradient-checkpointing: saves about" in str(caught.value)


def test_other_failures_pass_unchanged(tiny_sd1):
    base = load_base(str(tiny_sd1))
    with pytest.raises(ValueError, match="^something else$"), out_of_memory_explained(config(), base):
        raise ValueError("something else")


@pytest.mark.parametrize("method", METHODS)
def test_the_footprint_counts_what_a_forward_on_the_cpu_keeps(tiny_sd1, method):
    """Against saved tensors of real numbers; attention aside, of which CPU kernels keep a little more."""
    base = load_base(str(tiny_sd1))
    attach(base, method, 4, 4.0, "qkvo", ["unet"], 0.0, 0)
    size = measure(base, 128)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    own = {p.untyped_storage().data_ptr() for p in base.unet.parameters()}
    text = torch.randn(1, 77, 32, requires_grad=True)
    base.unet.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        base.unet(torch.randn(1, 4, 16, 16), torch.tensor([5]), text)
    real = sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in own)
    assert size.activations == pytest.approx(real, rel=0.1)
    assert size.checkpointed < 0.6 * size.activations
    assert size.adapter == sum(p.numel() for p in base.unet.parameters() if p.requires_grad)
    assert size.text_adapter == 0 and size.bytes_per_number == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_table_of_known_bases_agrees_with_the_count(dtype):
    base = load_base("sprite").to(dtype=dtype)
    attach(base, "lora", 8, 8.0, "qkvo", ["unet"], 0.0, 0)
    counted, known = measure(base, 128), known_footprint("sprite", dtype.itemsize)
    assert (counted.unet, counted.vae, counted.text) == (known.unet, known.vae, known.text)
    assert known.checkpointed == pytest.approx(counted.checkpointed, rel=0.05)
    # The table counts a text without a gradient.
    assert known.activations == pytest.approx(counted.activations, rel=0.25)


STARVED = """
import resource, sys
from pathlib import Path
from helpers.runs import tiny_config
from symdream.errors import WorkError
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training
import symdream.training.recorder as recorder

base, photos, folder = map(Path, sys.argv[1:])
enter = recorder.Recorder.__enter__
def starve(self):  # everything is loaded: from here on 400 MB more
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 400_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return enter(self)
recorder.Recorder.__enter__ = starve
try:
    config = tiny_config(base, photos, batch_size=256, method="lora", resolution=128)
    run_training(RunFolder.create(folder), config)
except WorkError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's limit on address space")
def test_a_process_that_runs_out_of_memory_names_the_three_cheapest_changes(tmp_path, tiny_sd1, photos):
    tests = Path(__file__).parent.parent
    result = subprocess.run(
        [sys.executable, "-c", STARVED, str(tiny_sd1), str(photos), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=300,
        env={"PATH": "", "PYTHONPATH": f"{tests}:{tests.parent}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert "Out of memory: batch 256 at 128 pixels" in result.stdout
    assert re.search(r"--gradient-checkpointing: saves about [\d.]+ GB", result.stdout), result.stdout
    assert re.search(r"--batch-size 128 --accumulation 2: saves about [\d.]+ GB", result.stdout)
    assert "failed" in (tmp_path / "run" / "state.json").read_text()


def test_the_work_error_is_one_that_the_command_shows():
    error = out_of_memory(config(), SIZE, gpu=False, native_bf16=False, said=None)
    assert isinstance(error, WorkError) and error.exit_code == 1
