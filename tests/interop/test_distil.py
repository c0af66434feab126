"""Teaching a compressed adapter the answers of the whole one, on a narrow base."""

from __future__ import annotations

import pytest
import torch
from helpers.tiny_bases import adapted, tiny_base

from symdream.diffusion.detach import detach
from symdream.interop import distil
from symdream.interop.arithmetic import compress_to_rank, scale
from symdream.interop.attach import attach_adapter
from symdream.interop.collect import collect
from symdream.interop.layers import Adapter
from symdream.interop.sensitivity import SEEDS, guided, looks_at

PROMPTS = ["a photo of a sks toy", "a drawing of a sks toy"]


@pytest.fixture
def whole() -> Adapter:
    return collect(adapted("sd1", "lora").components(), metadata={"trigger": "sks"})


@pytest.fixture
def base(whole):
    base = tiny_base("sd1")
    attach_adapter(base.components(), whole)
    return base


def predictions(adapter: Adapter, looks) -> torch.Tensor:
    fresh = tiny_base("sd1")
    attach_adapter(fresh.components(), adapter)
    with torch.no_grad():
        return torch.cat([guided(fresh, *look) for look in looks])


def test_the_taught_adapter_is_nearer_to_the_whole_on_other_seeds(base, whole, few_denoising_steps, monkeypatch):
    monkeypatch.setattr(distil, "PASSES", 20)  # these looks are few,
    monkeypatch.setattr(distil, "RATE", 3e-3)  # and a random base's answers turn little
    looks = looks_at(base, PROMPTS)
    others = looks_at(base, PROMPTS, [5])
    untouched = {name: p.clone() for name, p in tiny_base("sd1").unet.named_parameters()}
    small = compress_to_rank(whole, 2)
    result = distil.distil(base, PROMPTS, looks, small)
    assert result.after < 0.95 * result.before
    shapes = {place: [t.shape for t in layer.tensors()] for place, layer in small.layers.items()}
    assert {place: [t.shape for t in layer.tensors()] for place, layer in result.adapter.layers.items()} == shapes
    assert result.adapter.metadata == small.metadata
    wanted = predictions(whole, others)
    distance = {
        name: float((predictions(x, others) - wanted).norm())
        for name, x in (("small", small), ("taught", result.adapter))
    }
    assert distance["taught"] < distance["small"]
    # The base is as it was, and free for the next one.
    left = dict(base.unet.named_parameters())
    assert left.keys() == untouched.keys()
    assert all(torch.equal(left[name], p) for name, p in untouched.items())


def test_the_error_is_zero_for_the_whole_one_for_the_base_and_the_ratio_between(base, whole, few_denoising_steps):
    told = distil.answers(base, looks_at(base, PROMPTS[:1]))
    assert distil.error(base, told) == 0
    small = compress_to_rank(whole, 2)
    alone, kept = (predictions(x, told.looks) for x in (scale(whole, 0.0), small))
    wanted = torch.cat(told.whole)
    assert told.effect == pytest.approx(float((alone - wanted).norm()), rel=1e-4)
    detach(base)
    assert distil.error(base, told) == pytest.approx(1, rel=1e-4)
    attach_adapter(base.components(), small)
    assert distil.error(base, told) == pytest.approx(float((kept - wanted).norm() / (alone - wanted).norm()), rel=1e-4)


def test_learning_that_makes_it_worse_is_thrown_away(base, whole, few_denoising_steps, monkeypatch):
    monkeypatch.setattr(distil, "RATE", 1.0)
    small, prompts = compress_to_rank(whole, 3), PROMPTS[:1]
    unseen = distil.answers(base, looks_at(base, prompts, distil.CHECK_SEEDS))
    result = distil.distil(base, prompts, looks_at(base, prompts), small)
    assert result.adapter is small
    assert result.after == result.before
    attach_adapter(base.components(), small)
    assert result.before == pytest.approx(distil.error(base, unseen), rel=1e-5)
    assert not set(distil.CHECK_SEEDS) & set(SEEDS)


def test_both_matrices_of_both_models_learn_the_same_every_time_and_are_frozen_afterwards(
    base, whole, few_denoising_steps
):
    small, taught = compress_to_rank(whole, 2), []
    told = distil.answers(base, looks_at(base, PROMPTS[:1])[:3])
    for seed in (1, 2):
        fresh = tiny_base("sd1")
        attach_adapter(fresh.components(), small)
        trainable = [p.requires_grad for p in fresh.unet.parameters()]
        torch.manual_seed(seed)
        distil.learn(fresh, told)
        assert [p.requires_grad for p in fresh.unet.parameters()] == trainable
        taught.append(collect(fresh.components()).layers)
    for component in ("unet", "text_encoder"):
        places = [place for place in small.layers if place.component == component]
        for part in ("A", "B"):
            moved = [
                (getattr(taught[0][place], part) - getattr(small.layers[place], part)).abs().max() for place in places
            ]
            assert max(moved) > 0, (component, part)
    for place, layer in taught[0].items():
        assert all(torch.equal(a, b) for a, b in zip(layer.tensors(), taught[1][place].tensors(), strict=True)), place
