"""After an adapter is taken off, the base is bit for bit what it was, and takes another one of any method."""

import pytest
import torch

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.diffusion.detach import detach
from symdream.tuners import METHODS


@pytest.fixture(scope="module")
def base(tiny_sd1):
    return load_base(str(tiny_sd1))


def weights(base):
    return {f"{c}.{n}": p.clone() for c, m in base.components().items() for n, p in m.state_dict().items()}


def test_every_method_follows_every_other_as_on_a_fresh_base(base, tiny_sd1):
    before = weights(base)
    for method in METHODS:
        attached = attach(base, method, 2, 2.0, "qkvo", ["unet", "text_encoder"], 0.0, 7)
        fresh = attach(load_base(str(tiny_sd1)), method, 2, 2.0, "qkvo", ["unet", "text_encoder"], 0.0, 7)
        for component, named in fresh.items():
            assert named.keys() == attached[component].keys()
            assert all(torch.equal(p, attached[component][n]) for n, p in named.items())
        with torch.no_grad():
            for named in attached.values():
                for parameter in named.values():
                    parameter.normal_()
        detach(base)
        after = weights(base)
        assert after.keys() == before.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_a_base_without_adapters_stays_as_it_is(base):
    before = weights(base)
    detach(base)
    assert weights(base).keys() == before.keys()
