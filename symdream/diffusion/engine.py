"""One optimizer step, from batches to updated adapters: what both engines promise, and which one a run gets.

    engine = choose_engine("auto", StepParts(loss, optimizer, ...), say)
    engine.set(lr_factor, u)
    loss, norm = engine.step(batches)

eager (eager_engine.py): op by op, as PyTorch does it. The reference, and the faster one on a CPU.
graph (graph_engine.py): everything between a batch and the updated adapters recorded once as CUDA graphs and replayed,
so that a step costs no launches. Both take the same draws and differ by rounding only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from symdream.diffusion.batch import Batch
from symdream.tuners import Ramp

ENGINES = ("auto", "eager", "graph")


@dataclass(frozen=True)
class StepParts:
    """What a step works on. `loss(batch)` is a differentiable scalar (symdream.diffusion.batch_loss).

    parameters: all that `optimizer` updates; its groups carry `base_lr`, the rate before the schedule. ramps: of
    SingLoRA, one for each model. max_grad_norm: gradients are scaled down to this norm (0: never). accumulation:
    batches in one step. dtype: the frozen base's. dropout: the adapters'. captions: how many a batch may have. unet:
    the one that `loss` calls, so that a recording can exchange its kernels.
    """

    loss: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]
    accelerator: Accelerator
    ramps: Sequence[Ramp] = ()
    max_grad_norm: float = 0.0
    accumulation: int = 1
    dtype: torch.dtype = torch.float32
    dropout: float = 0.0
    captions: int = 1
    unet: nn.Module | None = None

    @property
    def device(self) -> torch.device:
        return self.parameters[0].device


class Engine(ABC):
    """Takes steps. keeps_last_good: a step whose loss or gradient is not finite changes nothing, nor do those after it,
    until somebody looks at what `step` returned.
    """

    keeps_last_good: bool

    def __init__(self, parts: StepParts):
        self.parts = parts

    def set(self, lr_factor: float, u: float) -> None:
        """Before a step: what the schedule multiplies the learning rates with, and SingLoRA's u."""
        for ramp in self.parts.ramps:
            ramp.set(u)
        for group in self.parts.optimizer.param_groups:
            group["lr"] = group["base_lr"] * lr_factor

    @abstractmethod
    def step(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        """Take one step over `accumulation` batches, each asked for just before its forward pass.

        Returns the mean loss and the gradient's norm before clipping, 0-d, on the device: reading them waits for it.
        """

    def state(self) -> dict:
        """What a checkpoint must hold beside parameters and optimizer."""
        return {}

    def load_state(self, state: dict) -> None:  # noqa: B027 (most engines have none)
        """The inverse of `state`."""


def choose_engine(wanted: str, parts: StepParts, say: Callable[[str], None]) -> Engine:
    """The engine of a run; `say` tells in one line why a graph that could be expected is not to be had.

    auto: graph on CUDA, eager elsewhere. graph without CUDA: its code, with nothing recorded.
    Raises: ValueError if `wanted` is none of ENGINES.
    """
    from symdream.diffusion.eager_engine import EagerEngine
    from symdream.diffusion.graph_engine import GraphEngine

    if wanted not in ENGINES:
        raise ValueError(f"engine {wanted!r}: know {', '.join(ENGINES)}")
    if wanted == "eager" or (wanted == "auto" and parts.device.type != "cuda"):
        return EagerEngine(parts)
    if reason := not_capturable(parts):
        say(f"  engine: eager, since {reason}")
        return EagerEngine(parts)
    return GraphEngine(parts, say)


def not_capturable(parts: StepParts) -> str | None:
    """Why this step cannot be recorded as CUDA graphs, or None."""
    if type(parts.optimizer) is not torch.optim.AdamW:
        return f"a graph cannot hold the optimizer {type(parts.optimizer).__name__}"
    if parts.accelerator.num_processes > 1:
        return "a graph cannot hold the exchange between several processes"
    if parts.dtype == torch.float16:
        return "fp16's loss scaling decides on the host whether a step counts"
    if parts.dropout:
        return "in a graph, what dropout leaves out would not follow from the seed after a resume"
    return None
