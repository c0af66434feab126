"""Captions as the text encoders see them: token ids, and embeddings where no text encoder is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from symdream.data.store import Store, content_key
from symdream.diffusion.base import Base
from symdream.diffusion.conditioning import Text, encode, tokenize

KIND = "texts"


@torch.no_grad()
def embed(base: Base, text: str) -> dict[str, Tensor]:
    """hidden (77, D) and, on SDXL, pooled (P,) of one text."""
    encoded = encode(base, tuple(ids.to(base.device) for ids in tokenize(base, [text])))
    found = {"hidden": encoded.hidden[0]}
    return found if encoded.pooled is None else found | {"pooled": encoded.pooled[0]}


def embed_all(base: Base, texts: Sequence[str], store: Store) -> Text:
    """The texts (C of them) encoded, on the base's device; known ones come from the cache.

    Key: the base's weights and settings, the text, number format and kind of device. Each text is encoded alone, so
    that it comes out the same whatever stands beside it.
    """
    shared = {"base": base.fingerprint, "dtype": str(base.dtype), "device": base.device.type}
    rows = [store.fetch(KIND, content_key(**shared, text=text), lambda text=text: embed(base, text)) for text in texts]
    stacked = {name: torch.stack([row[name] for row in rows]).to(base.device) for name in rows[0]}
    return Text(**stacked)
