"""The step over fixed tensors: on CUDA replayed from recorded graphs, elsewhere the same code unrecorded.

Two graphs make a step, so that any number of batches can be accumulated: one for each shape of batch (noise, text
encoder where it is trained, UNet, loss, backward, adding to the gradients), one for the update (norm, clipping, AdamW,
clearing). They share a pool of memory; what passes from one to the other (gradients, the sum of the losses) lies
outside of it. What changes from step to step is copied in: the batch into buffers, learning rates and u into scalars
on the device.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from symdream.diffusion.batch import Batch
from symdream.diffusion.captured import Captured, fill
from symdream.diffusion.eager_engine import EagerEngine, mark_bad
from symdream.diffusion.engine import Engine, StepParts
from symdream.diffusion.group_norm import first_line, why_not

Shapes = tuple[tuple[str, tuple[int, ...] | None], ...]


class GraphEngine(Engine):
    """Holds a graph for each shape of batch that it meets, and one for the update.

    If a recording fails, `say` tells why in one line, and this step and all others are taken eagerly. To be made when
    a checkpoint is loaded already: the graphs keep the addresses of the optimizer's state.
    """

    keeps_last_good = True

    def __init__(self, parts: StepParts, say: Callable[[str], None]):
        super().__init__(parts)
        self.say, device = say, parts.device
        self.total, self.mean, self.norm, self.bad = (torch.zeros((), device=device) for _ in range(4))
        self.rates = [torch.zeros((), device=device) for _ in parts.optimizer.param_groups]
        for group in parts.optimizer.param_groups:
            group.update(fused=True, foreach=False, capturable=device.type == "cuda")
        for parameter in parts.parameters:
            parameter.grad = torch.zeros_like(parameter)
        parts.optimizer.found_inf = self.bad
        self.pool = torch.cuda.graph_pool_handle() if device.type == "cuda" else None
        if device.type == "cuda" and (reason := why_not(device)):
            say(f"  engine: with PyTorch's group normalisation, since {reason}")
        self.passes: dict[Shapes, tuple[dict[str, Tensor | None], Captured]] = {}
        self.update: Captured | None = None
        self.instead: EagerEngine | None = None

    def set(self, lr_factor: float, u: float) -> None:
        super().set(lr_factor, u)
        for rate, group in zip(self.rates, self.parts.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    def step(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        batches = iter(batches)
        first = next(batches).with_captions(self.parts.captions)
        if self.instead is None:
            try:
                self._prepare(first)
            except torch.OutOfMemoryError:
                raise  # its explanation names what takes less memory
            except Exception as error:  # CUDA's are RuntimeErrors, a compiler's are whatever it likes
                self._give_up(error)
        if self.instead is not None:
            return self.instead.step(itertools.chain([first], batches))
        self._add_gradients(first)
        for batch in batches:
            self._add_gradients(batch.with_captions(self.parts.captions))
        self.update()
        return self.mean.clone(), self.norm.clone()

    def _prepare(self, batch: Batch) -> None:
        """Record what this batch's step needs and is not there yet; parameters and optimizer do not notice.

        AdamW's first call makes its state, and warming up calls the update as well: with `bad` set it changes nothing.
        """
        if self.update is None:
            self.bad.fill_(1)
            self._update()
            self.update = Captured(self._update, self.parts.device, self.pool)
            self.bad.zero_()
        tensors = batch.tensors()
        if shapes_of(tensors) not in self.passes:
            buffers = {name: None if t is None else t.clone() for name, t in tensors.items()}
            captured = Captured(lambda: self._forward_backward(buffers), self.parts.device, self.pool, self.parts.unet)
            self.passes[shapes_of(tensors)] = buffers, captured
            self._clear()

    def _add_gradients(self, batch: Batch) -> None:
        tensors = batch.tensors()
        buffers, run = self.passes[shapes_of(tensors)]
        fill(buffers, tensors)
        run()

    def _forward_backward(self, buffers: dict[str, Tensor | None]) -> None:
        loss = self.parts.loss(Batch.of(buffers))
        (loss / self.parts.accumulation).backward()
        self.total.add_(loss.detach())

    def _update(self) -> None:
        parts, groups = self.parts, self.parts.optimizer.param_groups
        self.mean.copy_(self.total / parts.accumulation)
        self.norm.copy_(torch.nn.utils.clip_grad_norm_(parts.parameters, parts.max_grad_norm or float("inf")))
        mark_bad(self.bad, self.mean, self.norm)
        # Everybody else (metrics, checkpoints) reads the rates on the host.
        on_host = [group["lr"] for group in groups]
        for group, rate in zip(groups, self.rates, strict=True):
            group["lr"] = rate
        try:
            parts.optimizer.step()
        finally:
            for group, rate in zip(groups, on_host, strict=True):
                group["lr"] = rate
        self._clear()

    def _clear(self) -> None:
        self.total.zero_()
        self.parts.optimizer.zero_grad(set_to_none=False)

    def _give_up(self, error: Exception) -> None:
        why = first_line(error) or type(error).__name__
        self.say(f"  engine: eager, since the step could not be recorded: {why}")
        bad = self.bad.clone() if self.update is not None else torch.zeros_like(self.bad)
        self.passes.clear()
        self.update, self.pool = None, None
        self.parts.optimizer.zero_grad(set_to_none=True)
        self.instead = EagerEngine(self.parts)
        if self.instead.bad is not None:
            self.instead.bad.copy_(bad)
        else:
            del self.parts.optimizer.found_inf
        self.keeps_last_good = self.instead.keeps_last_good


def shapes_of(tensors: dict[str, Tensor | None]) -> Shapes:
    return tuple((name, None if tensor is None else tuple(tensor.shape)) for name, tensor in tensors.items())
