"""The spectrum of an update against dense linear algebra."""

import numpy as np
import pytest
import torch

from symdream.bench.spectrum import negative_share, spectrum_of
from symdream.diffusion.adapters import NAME, attach
from symdream.diffusion.base import load_base
from symdream.tuners.layer import SymLoraLinear, SymmetricLinear


@pytest.mark.parametrize("seed", range(5))
def test_negative_share_equals_that_of_the_dense_symmetric_part(seed):
    random = np.random.default_rng(seed)
    B, A = random.normal(size=(12, 3)), random.normal(size=(3, 12))
    eigen = np.linalg.eigvalsh((B @ A + (B @ A).T) / 2)
    assert negative_share(B, A) == pytest.approx(-eigen[eigen < 0].sum() / np.abs(eigen).sum(), abs=1e-4)


def test_a_positive_update_has_no_negative_part_and_a_negated_one_no_other():
    A = np.random.default_rng(0).normal(size=(3, 12))
    assert negative_share(A.T, A) == 0 and negative_share(-A.T, A) == 1


@pytest.mark.parametrize("method", ["lora", "dora", "singlora", "symlora"])
def test_layers_of_an_adapter_as_their_dense_updates_say(tiny_sd1, method):
    base = load_base(str(tiny_sd1))
    attach(base, method, 2, 4.0, "qkvo", ["unet", "text_encoder"], 0.0, 0)
    layers = [m for c in base.components().values() for m in c.modules() if hasattr(m, "get_delta_weight")]
    with torch.no_grad():
        for parameter in (p for layer in layers for p in layer.parameters() if p.requires_grad):
            parameter.normal_()
    entries = spectrum_of(base)
    assert len(entries) == len(layers)
    for entry, layer in zip(entries, layers, strict=True):
        delta = layer.get_delta_weight(NAME).detach().double()
        assert entry["shape"] == list(delta.shape)
        dense = torch.linalg.svdvals(delta)[:2]
        assert entry["singular_values"] == pytest.approx(dense.tolist(), rel=2e-3)
        share = dense / dense.sum()
        assert entry["effective_rank"] == pytest.approx(float(torch.exp(-(share * share.log()).sum())), abs=2e-3)
        assert (entry["eigen_negative_share"] is None) == (delta.shape[0] != delta.shape[1])
        if isinstance(layer, SymmetricLinear) and entry["eigen_negative_share"] is not None and method == "singlora":
            assert entry["eigen_negative_share"] == 0
        if isinstance(layer, SymLoraLinear):
            expected = sorted((layer.symlora_lambda[NAME] * 2).tolist(), key=abs, reverse=True)
            assert entry["lambda"] == pytest.approx(expected, rel=1e-3)
