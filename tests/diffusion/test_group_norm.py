"""Our group normalisation against PyTorch's: run by Triton's interpreter, compiled for GPUs that are not here."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from symdream.diffusion import group_norm as ours

triton = pytest.importorskip("triton")

# The interpreter must be chosen before Triton is imported: it runs in a process of its own.
INTERPRETED = """
import torch, torch.nn.functional as F
from symdream.diffusion.group_norm import group_norm

def check(shape, groups, silu, dtype, tolerance, mean=1.0, last=True):
    torch.manual_seed(0)
    x, dy = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    x = (3 * x + mean).to(memory_format=torch.channels_last if last else torch.contiguous_format).requires_grad_()
    weight, bias = torch.randn(shape[1]).to(dtype), torch.randn(shape[1]).to(dtype)
    y = group_norm(x, groups, weight, bias, 1e-5, silu=silu)
    assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    wide = x.detach().double().requires_grad_()
    wanted = F.group_norm(wide, groups, weight.double(), bias.double(), 1e-5)
    wanted = F.silu(wanted) if silu else wanted
    for found, right in (
        (y, wanted), (torch.autograd.grad(y, x, dy)[0], torch.autograd.grad(wanted, wide, dy.double())[0]),
    ):
        torch.testing.assert_close(found.double(), right, rtol=tolerance, atol=tolerance)
    print("right")

check((2, 60, 7, 5), 4, False, torch.float32, 1e-5)      # 15 channels a group, no power of two
check((1, 20, 48, 43), 2, True, torch.float32, 2e-5)     # many chunks a group, the last one shorter
check((2, 64, 4, 4), 32, True, torch.float32, 1e-5)
check((1, 32, 3, 2), 32, True, torch.float32, 1e-4)      # a channel a group
check((1, 8, 40, 40), 2, False, torch.float32, 3e-3, mean=3000.0)   # a mean far from 0, where E[x^2] - E[x]^2 fails
check((1, 40, 9, 9), 4, True, torch.bfloat16, 2e-2)
check((1, 40, 9, 9), 4, True, torch.float16, 4e-3)
check((2, 12, 6, 6), 3, True, torch.float32, 1e-5, last=False)   # of the other layout

# Pictures are drawn in inference mode; what is found there holds for training afterwards.
from symdream.diffusion.group_norm import _why_not
with torch.inference_mode():
    assert _why_not(torch.device("cpu")) is None, _why_not(torch.device("cpu"))
    x = torch.randn(1, 8, 4, 4)
    y = group_norm(x, 2, torch.ones(8), torch.zeros(8), 1e-5, silu=False)
torch.testing.assert_close(y, F.group_norm(x, 2, eps=1e-5))
print("right")
"""


def test_pictures_and_gradients_are_pytorchs():
    told = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env={"TRITON_INTERPRET": "1", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(ours.__file__).parents[2])},
        capture_output=True,
        text=True,
    )
    assert told.stdout.split() == ["right"] * 9, told.stderr[-2000:]


@pytest.mark.parametrize("kernel", ["moments", "normalise", "gradient_sums", "gradient"])
def test_each_kernel_compiles_for_gpus(kernel):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from symdream.diffusion import group_norm_kernels as kernels

    function = getattr(kernels, kernel)
    kinds = dict.fromkeys(("x", "y", "dy", "dx", "weight", "bias"), "*bf16")
    kinds |= {"sums": "*fp32", "stats": "*fp32", "eps": "fp32", "inverse": "fp32"}
    kinds |= {"BLOCK": "constexpr", "SPLITS": "constexpr"}
    signature = {name: kinds.get(name, "i32") for name in function.arg_names}
    constants = {name: getattr(kernels, name) for name in function.arg_names if kinds.get(name) == "constexpr"}
    for capability in (80, 90):  # A100, H100
        compiled = triton.compile(ASTSource(function, signature, constants), target=GPUTarget("cuda", capability, 32))
        assert len(compiled.asm["cubin"]) > 1000


def test_a_pixel_is_found_by_a_product_up_to_the_largest_group():
    # As _offsets does it, in fp32: exact where it is hardest, just below and at a multiple of the group.
    for group in (1, 2, 3, 7, 10, 20, 30, 40, 60, 80, 127):
        multiples = torch.arange(0, ours.MOST, group, dtype=torch.int32)
        numbers = torch.cat([multiples, multiples[1:] - 1])
        pixel = ((numbers.float() + 0.5) * torch.tensor(1 / group)).int()
        assert torch.equal(pixel, numbers // group)


def test_what_it_cannot_do_is_refused():
    x, weight, bias = torch.randn(1, 8, 4, 4), torch.ones(8), torch.zeros(8)
    with pytest.raises(ValueError, match="no gradient"):
        ours.group_norm(x, 2, weight.requires_grad_(), bias, 1e-5, silu=True)
    with pytest.raises(ValueError, match="3 groups do not fit"):
        ours.group_norm(x, 3, bias, bias, 1e-5, silu=True)


def test_without_a_gpu_or_switched_off_the_reason_is_told(monkeypatch):
    assert ours.why_not(torch.device("cpu")) == "there is no CUDA device"
    monkeypatch.setenv(ours.SWITCH, "0")
    assert ours.why_not(torch.device("cuda")) == "SYMDREAM_KERNELS is 0"


def test_a_device_on_which_the_kernels_fail_keeps_pytorchs():
    # This machine's processor is one: without the interpreter Triton has nothing to launch on.
    ours._why_not.cache_clear()
    reason = ours._why_not(torch.device("cpu"))
    ours._why_not.cache_clear()
    assert reason.startswith("Triton's kernels do not work here (")


def test_an_error_without_a_word_is_a_reason_too(monkeypatch):
    def fails(device):
        raise AssertionError

    monkeypatch.setattr(ours, "largest_difference", fails)
    ours._why_not.cache_clear()
    reason = ours._why_not(torch.device("cpu"))
    ours._why_not.cache_clear()
    assert reason == "Triton's kernels do not work here (AssertionError: )"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 3e-3), (torch.bfloat16, 2e-2)])
def test_on_cuda_it_is_pytorchs(dtype, tolerance):
    assert ours.largest_difference(torch.device("cuda"), dtype) < tolerance
