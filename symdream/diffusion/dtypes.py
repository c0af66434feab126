"""Number formats: their names, the one that suits a device, and why one does not."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def auto_dtype(device_type: str) -> torch.dtype:
    """bf16 on a GPU that computes it natively (not emulated), else fp16 on a GPU, fp32 elsewhere."""
    if device_type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    return torch.float32


def dtype_problem(device_type: str, dtype: torch.dtype) -> str | None:
    """Why a base in `dtype` is not to compute on this kind of device, or None."""
    if dtype == torch.float16 and device_type == "cpu":
        return "fp16 is not for a CPU: its kernels there are slow or missing, and fp32 takes less time."
    if dtype == torch.bfloat16 and device_type == "cuda" and auto_dtype("cuda") != torch.bfloat16:
        return "This GPU only emulates bf16, slower than fp32; its own half precision is fp16."
    return None
