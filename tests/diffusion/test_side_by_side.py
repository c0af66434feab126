"""Adapters that share a batch draw what each draws alone."""

import numpy as np
import pytest
import torch

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.diffusion.detach import detach
from symdream.diffusion.sampling import sample
from symdream.diffusion.side_by_side import side_by_side
from symdream.tuners.batched import Adapter

PROMPTS = ["a sks toy", "a toy on a red background"]


def made(base, method, seed):
    """An adapter that changes the pictures, attached; and the same for a batch."""
    trainable = attach(base, method, 4, 4.0, "qkvo", base.chosen("both"), 0.0, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for named in trainable.values():
            for parameter in named.values():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return {
        component: Adapter(method, 1.0, {name: p.detach().clone() for name, p in named.items()})
        for component, named in trainable.items()
    }


@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_each_block_of_rows_is_drawn_by_its_own_adapter(tiny_sd1, guidance):
    base = load_base(str(tiny_sd1))
    alone, adapters = [], []
    for method, seed in (("singlora", 1), ("symlora", 2)):
        adapters.append(made(base, method, seed))
        alone += sample(base, PROMPTS, [5, 6], steps=2, guidance=guidance)
        detach(base)
    with side_by_side(base, adapters, guided=guidance > 1):
        together = sample(base, PROMPTS * 2, [5, 6] * 2, steps=2, guidance=guidance, batch_size=4)
    plain = sample(base, PROMPTS, [5, 6], steps=2, guidance=guidance)
    for ours, theirs in zip(together, alone, strict=True):
        assert np.abs(np.asarray(ours, int) - np.asarray(theirs, int)).max() <= 1
    assert not np.array_equal(np.asarray(together[0]), np.asarray(together[2]))
    assert not np.array_equal(np.asarray(together[0]), np.asarray(plain[0]))  # and nothing of them is left behind


def test_adapters_on_other_components_are_refused(tiny_sd1):
    base = load_base(str(tiny_sd1))
    one = made(base, "singlora", 1)
    detach(base)
    with (
        pytest.raises(ValueError, match="same components"),
        side_by_side(base, [one, {"unet": one["unet"]}], guided=True),
    ):
        pass
