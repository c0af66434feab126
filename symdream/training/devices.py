"""Where a run computes and in which number format."""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator

from symdream.errors import RequestError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def is_leader() -> bool:
    """True in the process that writes, known before accelerate has started (torchrun's RANK)."""
    return int(os.environ.get("RANK", "0")) == 0


def open_accelerator(device: str, dtype: str) -> tuple[Accelerator, torch.dtype]:
    """The accelerator of this process and the dtype of the frozen base.

    Raises: RequestError if the device is not there, or the dtype cannot train on it.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device != "auto" and not available[device]:
        here = ", ".join(name for name, there in available.items() if there)
        raise RequestError(f"No {device} device on this machine.", fix=f"take --device auto; here is: {here}")
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="no")
    chosen = auto_dtype(accelerator.device.type) if dtype == "auto" else DTYPES[dtype]
    if chosen == torch.float16 and accelerator.device.type == "cpu":
        raise RequestError("fp16 does not train on a CPU.", fix="take --dtype fp32 (or leave it at auto)")
    return accelerator, chosen


def auto_dtype(device_type: str) -> torch.dtype:
    """bf16 on a GPU that computes it natively (not emulated), else fp16 on a GPU, fp32 elsewhere."""
    if device_type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.float32
