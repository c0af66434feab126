"""The step op by op: the reference, and what every device and option can do."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from symdream.diffusion.batch import Batch
from symdream.diffusion.engine import Engine, StepParts


class EagerEngine(Engine):
    """Forward, backward, clipping and update as PyTorch's own calls.

    fp16 is trained with loss scaling (GradScaler), which skips a step whose gradient overflows and halves the scale.
    """

    def __init__(self, parts: StepParts):
        super().__init__(parts)
        device = parts.device
        scaled = parts.dtype == torch.float16
        self.scaler = torch.amp.GradScaler(device.type, enabled=scaled)
        # Looking at every loss costs nothing on a CPU; on a GPU the fused optimizer looks for itself.
        self.looks = device.type == "cpu"
        fused = all(group.get("fused") for group in parts.optimizer.param_groups)
        self.bad = torch.zeros((), device=device) if fused and not self.looks and not scaled else None
        self.keeps_last_good = self.looks or self.bad is not None

    def step(self, batches: Iterable[Batch]) -> tuple[Tensor, Tensor]:
        parts, losses = self.parts, []
        for batch in batches:
            loss = parts.loss(batch)
            self.scaler.scale(loss / parts.accumulation).backward()
            losses.append(loss.detach())
        loss = self._averaged(torch.stack(losses).mean())
        self.scaler.unscale_(parts.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parts.parameters, parts.max_grad_norm or float("inf"))
        if not self.looks or (loss.isfinite() and norm.isfinite()):
            if self.bad is not None:
                parts.optimizer.found_inf = mark_bad(self.bad, loss, norm)
            self.scaler.step(parts.optimizer)
            self.scaler.update()
        parts.optimizer.zero_grad(set_to_none=True)
        return loss, norm

    def _averaged(self, loss: Tensor) -> Tensor:
        """Replace each gradient by its mean over all processes, and return that of the loss, in one reduction.

        An adapter is small, so DistributedDataParallel's overlap would gain nothing; without its wrapper the model's
        names and the single-process path stay as they are.
        """
        if self.parts.accelerator.num_processes == 1:
            return loss
        gradients = [p.grad for p in self.parts.parameters]
        flat = torch.cat([*(g.flatten() for g in gradients), loss.view(1)])
        flat = self.parts.accelerator.reduce(flat, reduction="mean")
        *means, loss = flat.split([*(g.numel() for g in gradients), 1])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))
        return loss.squeeze(0)

    def state(self) -> dict:
        return {"scaler": self.scaler.state_dict()}

    def load_state(self, state: dict) -> None:
        # None of a new run, and an empty one of a run without loss scaling: an enabled scaler refuses both.
        if state.get("scaler"):
            self.scaler.load_state_dict(state["scaler"])


def mark_bad(bad: Tensor, loss: Tensor, norm: Tensor) -> Tensor:
    """Set `bad` (0-d: 0 or 1) to 1 if one of the two is not finite, without waiting; it never goes back to 0.

    The fused AdamW takes it as `found_inf` and then changes nothing, not even its count of steps.
    """
    return bad.logical_or_(~(loss.isfinite() & norm.isfinite()))
