"""What a caller has set in torch for its own work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def as_torch_starts() -> Iterator[None]:
    """While entered, torch has fp32 by default, gradients on and no autocast on CPU and CUDA, as in a new process.
    What the caller had comes back afterwards, and the random generators stand where they stood: the CPU's, and those of
    CUDA if that was in use already. The default device, and autocast on MPS, stay the caller's.
    """
    import torch

    dtype = torch.get_default_dtype()
    gpus = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else []
    with (
        torch.random.fork_rng(devices=gpus),
        torch.inference_mode(False),
        torch.enable_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
