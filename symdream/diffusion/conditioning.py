"""What the UNet is told besides x_t and t: the text, and on SDXL the sizes of the picture.

SD 1.x and 2.x: hidden states after the encoder's last layer and its final norm. (SD 2.x meant the penultimate of
OpenCLIP's 24 layers; its published encoders have 23 layers, so the last one is it.)
SDXL (arXiv:2307.01952, section 2 and appendix): hidden states before the last layer of both encoders, side by side;
the pooled embedding of the second; and six numbers: the photo's size, where it was cut, and the size asked for.
`encode` equals diffusers' `encode_prompt` (tests/diffusion/test_conditioning.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from symdream.diffusion.base import Base


@dataclass(frozen=True)
class Text:
    """C captions as the UNet reads them: hidden (C, 77, D); pooled (C, P) on SDXL, else None."""

    hidden: Tensor
    pooled: Tensor | None = None

    def rows(self, rows: Tensor) -> Text:
        """The captions `rows` (B,) as a Text of B."""
        return Text(self.hidden[rows], None if self.pooled is None else self.pooled[rows])

    @staticmethod
    def cat(texts: Sequence[Text]) -> Text:
        """The rows of all, one after another."""
        pooled = None if texts[0].pooled is None else torch.cat([text.pooled for text in texts])
        return Text(torch.cat([text.hidden for text in texts]), pooled)


def tokenize(base: Base, texts: Sequence[str]) -> tuple[Tensor, ...]:
    """Token ids (C, 77) of the texts, padded and cut as CLIP does, one tensor for each tokenizer of the base."""
    return tuple(
        tokenizer(
            list(texts),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids
        for tokenizer in base.tokenizers
    )


def encode(base: Base, token_ids: Sequence[Tensor]) -> Text:
    """The text encoders' answer to `tokenize`'s ids (on the encoders' device), with gradients where they are on."""
    if base.family != "sdxl":
        return Text(base.text_encoder(token_ids[0])[0])
    outputs = [
        encoder(ids, output_hidden_states=True) for encoder, ids in zip(base.text_encoders, token_ids, strict=True)
    ]
    hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
    return Text(hidden, outputs[1].text_embeds)


def size_ids(original: tuple[int, int], crop: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """SDXL's six numbers, fp32 (6,): (height, width) of the photo; (top, left) of the cut, in pixels of the photo as
    scaled for training; (height, width) of what the UNet sees.
    """
    return torch.tensor([*original, *crop, *target], dtype=torch.float32)


def unet_arguments(text: Text, sizes: Tensor | None) -> dict:
    """Keyword arguments of the UNet for B samples: text of B rows, sizes (B, 6) on SDXL, else None."""
    arguments: dict = {"encoder_hidden_states": text.hidden}
    if text.pooled is not None:
        # The sizes stay fp32: bf16 knows no odd number above 256.
        arguments["added_cond_kwargs"] = {"text_embeds": text.pooled, "time_ids": sizes}
    return arguments


def unused_layers(base: Base, component: str) -> str | None:
    """A pattern of the modules whose output nothing reads, so that an adapter there could not learn; None if none.

    SDXL reads its first encoder before the last layer; the second one's last layer still makes the pooled embedding.
    """
    if base.family != "sdxl" or component != "text_encoder":
        return None
    return rf".*\.layers\.{base.text_encoder.config.num_hidden_layers - 1}\..*"
