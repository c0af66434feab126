"""A function over fixed tensors: on CUDA recorded once as a graph and replayed, elsewhere called as it is.

A step of these models is some thousand small kernels; launching them one by one costs more than running them. A CUDA
graph launches them all at once, but keeps the addresses that it was recorded with. So whatever changes from call to
call is copied into tensors that stay (`fill`), and what comes out lies in tensors that stay. The same code without the
recording is the twin that CPU tests check.

While a UNet's step is recorded, its pictures stay channels-last (lean_unet.py): a graph keeps the kernels that it was
recorded with, so that nothing is left behind in the model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from symdream.diffusion.group_norm import why_not
from symdream.diffusion.lean_unet import lean

WARMUPS = 2  # calls before the recording: libraries choose their kernels and allocate their workspaces in them


class Captured:
    """`call()` runs `function()`, which reads and writes fixed tensors only and never waits for the device.

    pool: memory that several graphs share (torch.cuda.graph_pool_handle()); they must not run at the same time, and
    what one leaves in the pool is gone when another runs. unet: whose forward `function` calls, to be recorded with
    kernels that keep it channels-last, where they work. seconds: what warming up and recording took, 0 elsewhere.
    """

    def __init__(
        self,
        function: Callable[[], None],
        device: torch.device,
        pool: object | None = None,
        unet: nn.Module | None = None,
    ):
        self.seconds, self._graph, self._function = 0.0, None, function
        if device.type == "cuda":
            start = time.perf_counter()
            with nullcontext() if unet is None or why_not(device) else lean(unet):
                self._graph = record(function, device, pool)
            self._function = None  # what it refers to may be freed before the graph is
            self.seconds = time.perf_counter() - start

    def __call__(self) -> None:
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()


def record(function: Callable[[], None], device: torch.device, pool: object | None = None) -> torch.cuda.CUDAGraph:
    """The graph of `function`, after WARMUPS plain calls of it on a stream of its own (a condition of recording)."""
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARMUPS):
            function()
    torch.cuda.current_stream(device).wait_stream(stream)
    torch.cuda.synchronize(device)
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        # thread_local: another thread (the app's, a writer's) may allocate meanwhile without spoiling the recording.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            function()
    except BaseException:
        # torch leaves the recording's stream the current one when ending a failed recording fails as well.
        torch.cuda.set_stream(before)
        raise
    return graph


def fill(buffers: Mapping[str, Tensor | None], values: Mapping[str, Tensor | None]) -> None:
    """Copy `values` into the fixed tensors of the same names, without waiting for the device.

    Raises: ValueError where a shape differs, or one of the two is None: that needs other buffers.
    """
    for name, buffer in buffers.items():
        value = values[name]
        if (buffer is None) != (value is None) or (buffer is not None and buffer.shape != value.shape):
            raise ValueError(f"{name}: the buffer is {_shape(buffer)}, the value {_shape(value)}")
        if buffer is not None:
            buffer.copy_(value, non_blocking=True)


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def fingerprint(module: nn.Module) -> int:
    """Changes when a recording of the module's forward would no longer hold: other tensors (moved, replaced, added),
    or another state of its adapters (active, weight, merged, off), which their forward reads on the host.
    """
    seen: list[object] = [(p.data_ptr(), p.dtype) for p in module.parameters()]
    for part in module.modules():
        if hasattr(part, "active_adapters") and hasattr(part, "merged_adapters"):
            scaling = {name: part.scaling[name] for name in part.active_adapters if name in part.scaling}
            seen.append((id(part), tuple(scaling.items()), tuple(part.merged_adapters), part.disable_adapters))
    return hash((module.training, *seen))
