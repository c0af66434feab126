"""One training step of N adapters at once, over fixed tensors: on CUDA one recorded graph, elsewhere, and where the
engine is eager (symdream.diffusion.engine), the same code unrecorded.

The N batches lie one after another in the rows of one batch; the loss of each is the mean over its own rows, and their
sum has the gradient of each in its own row of the stacks (symdream.tuners.batched).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from symdream.diffusion.base import Base
from symdream.diffusion.batch import filled
from symdream.diffusion.captured import Captured, fill
from symdream.diffusion.conditioning import Text, encode, unet_arguments
from symdream.diffusion.loss import add_noise, min_snr_weights, prediction_target, sample_losses
from symdream.tuners.batched import AdapterStack

if TYPE_CHECKING:
    from symdream.diffusion.batch import Batch
    from symdream.training.batched_optimizer import StackedAdamW


class BatchedStep:
    """The optimizer step of N adapters: `step(batches)`, then `losses` and the optimizer's `norms`, both (N,).

    The stacks are installed on the base's models (symdream.tuners.batched.installed). captions: how many different
    captions an adapter's batch may have. min_snr_gamma: one for each adapter, None for even weights. engine: one of
    ENGINES; "eager" records nothing. The losses stay on the device until somebody reads them.
    """

    def __init__(
        self,
        base: Base,
        stacks: Mapping[str, AdapterStack],
        optimizer: StackedAdamW,
        first: Sequence[Batch],
        *,
        captions: int,
        min_snr_gamma: Sequence[float | None],
        engine: str = "auto",
    ):
        self.base, self.stacks, self.optimizer = base, stacks, optimizer
        self.count, self.captions = len(first), captions
        self.train_text_encoder = any(name != "unet" for name in stacks)
        device = base.device
        self.alphas_cumprod = base.scheduler.alphas_cumprod.to(device)
        self.weighted = any(gamma is not None for gamma in min_snr_gamma)
        gammas = torch.tensor([float("inf") if gamma is None else gamma for gamma in min_snr_gamma])
        self.gammas = gammas.to(device).repeat_interleave(len(first[0].x0))
        self.losses = torch.zeros(self.count, device=device)
        self.buffers = {name: None if t is None else t.clone() for name, t in self.joined(first).items()}
        if engine == "eager":
            self.run = self._step
            return
        # Warming up for the recording takes real steps; the adapters must not notice.
        before = [tensor.clone() for tensor in optimizer.tensors()]
        self.run = Captured(self._step, device, unet=base.unet)
        for tensor, value in zip(optimizer.tensors(), before, strict=True):
            tensor.copy_(value)
        self.losses.zero_()

    def __call__(self, batches: Sequence[Batch]) -> None:
        fill(self.buffers, self.joined(batches))
        self.run()

    def joined(self, batches: Sequence[Batch]) -> dict[str, Tensor | None]:
        """One batch of N·b rows; each adapter's captions take the same number of rows, the last one filling up.

        Raises: ValueError if the batches differ in shape, or one has more captions than were said.
        """
        if len(batches) != self.count or len({batch.x0.shape for batch in batches}) != 1:
            raise ValueError(f"{self.count} batches of one shape are needed")

        def all_rows(name: str) -> Tensor | None:
            parts = [getattr(batch, name) for batch in batches]
            given = [part for part in parts if part is not None]
            # No weights and no masks mean ones.
            return torch.cat([torch.ones_like(given[0]) if p is None else p for p in parts]) if given else None

        texts = {}
        if batches[0].text is None:
            for i in range(len(batches[0].token_ids)):
                texts[f"token_ids_{i}"] = torch.cat([self.filled(batch.token_ids[i]) for batch in batches])
        else:
            text = Text.cat([Text(*map(self.filled, (b.text.hidden, b.text.pooled))) for b in batches])
            texts = {"hidden": text.hidden, "pooled": text.pooled}
        shifted = [batch.captions + n * self.captions for n, batch in enumerate(batches)]
        names = ("x0", "noise", "timesteps", "weights", "mask")
        sizes = all_rows("sizes") if self.base.family == "sdxl" else None
        return {**{name: all_rows(name) for name in names}, "captions": torch.cat(shifted), "sizes": sizes, **texts}

    def filled(self, rows: Tensor | None) -> Tensor | None:
        return None if rows is None else filled(rows, self.captions)

    def _step(self) -> None:
        losses = self._losses()
        self.losses.copy_(losses.detach())
        self.optimizer.zero_grad()
        losses.sum().backward()
        self.optimizer.step()

    def _losses(self) -> Tensor:
        base, held = self.base, self.buffers
        for stack in self.stacks.values():
            stack.refresh()
        if "hidden" in held:
            text = Text(held["hidden"], held["pooled"])
        else:
            with torch.set_grad_enabled(self.train_text_encoder):
                text = encode(base, [held[f"token_ids_{i}"] for i in range(len(base.tokenizers))])
        schedule, timesteps = self.alphas_cumprod, held["timesteps"]
        x_t = add_noise(held["x0"], held["noise"], schedule, timesteps)
        target = prediction_target(held["x0"], held["noise"], schedule, timesteps, base.prediction_type)
        told = unet_arguments(text.rows(held["captions"]), held["sizes"])
        prediction = base.unet(x_t.to(base.dtype), timesteps, **told).sample
        weights = held["weights"]
        if self.weighted:
            by_noise = min_snr_weights(schedule, timesteps, self.gammas, base.prediction_type)
            by_noise = torch.where(self.gammas.isinf(), 1.0, by_noise)
            weights = by_noise if weights is None else weights * by_noise
        return sample_losses(prediction, target, weights, held["mask"]).view(self.count, -1).mean(1)
