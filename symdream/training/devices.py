"""Where a run computes and in which number format."""

from __future__ import annotations

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.state import is_initialized
from accelerate.utils import InitProcessGroupKwargs

from symdream.diffusion.dtypes import DTYPES, auto_dtype, dtype_problem
from symdream.errors import RequestError
from symdream.training.ranks import WORLD_SIZES, is_leader
from symdream.ui import say

# How long processes wait for each other. They wait while the first one draws class images, scores, and pictures, which
# may take hours: torch's own 10 (NCCL) and 30 (gloo) minutes would end a run that is well. One that died ends them
# sooner: its launcher, or its closed connections, tell the others.
PATIENCE = timedelta(days=1)
# What `accelerate config` asks about and a run here has no use for, by the variable in which its launcher tells it.
UNUSED = {
    "ACCELERATE_MIXED_PRECISION": "mixed precision",
    "ACCELERATE_DYNAMO_BACKEND": "dynamo",
    "ACCELERATE_USE_FSDP": "FSDP",
}
REFUSED = {"ACCELERATE_USE_DEEPSPEED": "DeepSpeed", "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM"}


def open_accelerator(device: str, dtype: str, *, together: bool = False) -> tuple[Accelerator, torch.dtype]:
    """The accelerator of this process and the dtype of the frozen base.

    together: meet the other processes that a launcher started, to train one run with them; else each computes alone.
    Raises: RequestError if the device is not there or not that of an Accelerator which the process has already, the
    dtype is not for it, the processes that a launcher started cannot meet on it, or accelerate is set to
    DeepSpeed or Megatron-LM.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device != "auto" and not available[device]:
        here = ", ".join(name for name, there in available.items() if there)
        raise RequestError(f"No {device} device on this machine.", fix=f"take --device auto; here is: {here}")
    for variable, name in REFUSED.items():
        if is_set(variable):
            raise RequestError(
                f"accelerate is set to {name}, which symdream does not use.",
                fix=f"accelerate launch --multi_gpu …, or accelerate config, without {name}",
            )
    # Where there is nothing but a CPU, accelerate takes it untold; told to, it has several processes meet there.
    on_cpu = device == "cpu" if torch.accelerator.is_available() else together
    theirs = is_initialized()  # the first Accelerator of a process settles these for all; its autocast is not used here
    try:
        accelerator = Accelerator(
            cpu=on_cpu and not theirs,
            mixed_precision=None if theirs else "no",
            dynamo_backend="no",  # told otherwise, it would turn on TF32
            kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
        )
    except (ValueError, torch.distributed.DistError) as error:
        raise RequestError(
            f"The processes that a launcher started cannot meet: {error}",
            fix="start one process without a launcher, or several with: accelerate launch --num_processes 2 …",
        ) from error
    if device not in ("auto", accelerator.device.type):
        raise RequestError(
            f"This process computes on {accelerator.device}, by an Accelerator made before; it cannot go to {device}.",
            fix="take --device auto, or a process of its own for this run",
        )
    if together and (problem := unconnected(accelerator)):
        raise RequestError(problem, fix="start one process, or take --device cpu, where several can train together")
    chosen = auto_dtype(accelerator.device.type) if dtype == "auto" else DTYPES[dtype]
    if problem := dtype_problem(accelerator.device.type, chosen):
        raise RequestError(problem, fix="leave --dtype at auto, or take fp32")
    if is_leader() and (labels := [label for name, label in UNUSED.items() if is_set(name)]):
        say(
            f"note: not used of accelerate's settings: {', '.join(labels)}. The number format is --dtype's, and each "
            "process holds the whole base."
        )
    if is_leader() and (label := untested(accelerator.device.type)):
        say(f"note: {label} is untested; please report what you find.")
    return accelerator, chosen


def is_set(name: str) -> bool:
    """Whether accelerate's launcher has turned on what this variable stands for."""
    return os.environ.get(name, "").lower() not in ("", "no", "false", "0")


def unconnected(accelerator: Accelerator) -> str | None:
    """Why the processes that a launcher started would each train a run of their own, or None."""
    for name in WORLD_SIZES:
        started = os.environ.get(name, "")
        if started.isdecimal() and int(started) != accelerator.num_processes:
            return (
                f"{started} processes were started ({name}), but they do not find each other on {accelerator.device}: "
                "each would train a run of its own."
            )
    return None


def untested(device_type: str) -> str | None:
    """The name of a platform on which symdream was never run, or None."""
    if device_type == "mps":
        return "training on an Apple GPU (MPS)"
    if device_type == "cuda" and torch.version.hip:
        return "training on an AMD GPU (ROCm)"
    return None
