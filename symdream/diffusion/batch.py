"""What one forward pass of training reads: `Batch`, its form with a fixed number of captions, and its way to a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from symdream.diffusion.conditioning import Text


@dataclass
class Batch:
    """The inputs of one forward pass over B samples, on the device.

    x0, noise (B, 4, h, w) fp32; timesteps (B,); captions (B,) rows of the C captions in use, which are given as
    `token_ids`, (C, 77) for each tokenizer, or as `text`, already encoded; sizes (B, 6), SDXL's size_ids;
    weights (B,) of the samples in the loss (None: all 1); mask (B, 1, h, w), weights of latent pixels (None: all 1).
    With prior preservation the first half are photos and the second half class images.
    """

    x0: Tensor
    noise: Tensor
    timesteps: Tensor
    captions: Tensor
    token_ids: tuple[Tensor, ...] = ()
    text: Text | None = None
    sizes: Tensor | None = None
    weights: Tensor | None = None
    mask: Tensor | None = None

    def with_captions(self, count: int) -> Batch:
        """The same batch with `count` captions in place of C, the last one filling up; nothing reads the new ones.

        Raises: ValueError if it has more.
        """
        text = self.text
        if text is not None:
            text = Text(filled(text.hidden, count), None if text.pooled is None else filled(text.pooled, count))
        return replace(self, token_ids=tuple(filled(ids, count) for ids in self.token_ids), text=text)

    def tensors(self) -> dict[str, Tensor | None]:
        """Every tensor by name; token_ids as token_ids_0, …; text as hidden and pooled."""
        names = ("x0", "noise", "timesteps", "captions", "sizes", "weights", "mask")
        text = {"hidden": self.text.hidden, "pooled": self.text.pooled} if self.text is not None else {}
        ids = {f"token_ids_{i}": ids for i, ids in enumerate(self.token_ids)} if self.text is None else {}
        return {**{name: getattr(self, name) for name in names}, **text, **ids}

    @staticmethod
    def of(tensors: dict[str, Tensor | None]) -> Batch:
        """The inverse of `tensors`."""
        plain = {name: value for name, value in tensors.items() if name in Batch.__dataclass_fields__}
        text = Text(tensors["hidden"], tensors["pooled"]) if "hidden" in tensors else None
        ids = [name for name in tensors if name.startswith("token_ids_")]
        return Batch(**plain, text=text, token_ids=tuple(tensors[name] for name in sorted(ids)))


def filled(rows: Tensor, count: int) -> Tensor:
    """`rows` (C, …) with the last one repeated until there are `count`. Raises: ValueError if C is larger."""
    if len(rows) > count:
        raise ValueError(f"a batch has {len(rows)} captions, {count} were said")
    if len(rows) == count:
        return rows
    return torch.cat([rows, rows[-1:].expand(count - len(rows), *rows.shape[1:])])


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """To the device; from pinned memory where it is a GPU, so that the host goes on to the next step's draws."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
