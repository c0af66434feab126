"""Several adapters at once: their updates add up, and the base comes back bit for bit."""

import itertools
from dataclasses import replace

import pytest
import torch

from symdream.diffusion.adapters import set_weight
from symdream.diffusion.base import load_base
from symdream.diffusion.detach import detach
from symdream.errors import RequestError
from symdream.interop.keys import Place, with_text_model
from symdream.interop.layers import Adapter, PlainLayer, SymmetricLayer
from symdream.interop.several import attach_several


@pytest.fixture(scope="module")
def base(tiny_sd1):
    return load_base(str(tiny_sd1))


def adapter(base, kind, seed):
    """A random adapter of the UNet's attention queries and values, and of some of the text encoder's."""
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for component, ends in (("unet", ("to_q", "to_v")), ("text_encoder", ("q_proj",))):
        for name, module in base.components()[component].named_modules():
            if not name.endswith(ends):
                continue
            n_out, n_in = module.weight.shape
            place = Place(component, with_text_model(name))
            A = torch.randn(2, max(n_out, n_in), generator=generator) * 0.2
            if kind == "lora":
                layers[place] = PlainLayer(A[:, :n_in], torch.randn(n_out, 2, generator=generator) * 0.2, 0.5)
            else:
                d = torch.randn(2, generator=generator) if kind == "symlora" else None
                layers[place] = SymmetricLayer(A, d, 2.0, 1.0, (n_out, n_in))
    return Adapter(layers)


def answer(base):
    generator = torch.Generator().manual_seed(5)
    width = base.unet.config.cross_attention_dim
    x, text = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 7, width, generator=generator)
    with torch.inference_mode():
        return base.unet(x, 500, text).sample


def added(base, adapters, weights):
    """The UNet's answer with sum_i w_i dW_i in its own weights."""
    saved = {k: v.clone() for k, v in base.unet.state_dict().items()}
    for one, weight in zip(adapters, weights, strict=True):
        for module, layer in one.plain().of("unet").items():
            base.unet.get_submodule(module).weight.data += weight * layer.scale * (layer.B @ layer.A)
    result = answer(base)
    base.unet.load_state_dict(saved)
    return result


@pytest.mark.parametrize("kinds", list(itertools.product(["lora", "singlora", "symlora"], repeat=2)))
def test_two_adapters_of_any_methods_add_up(base, kinds):
    adapters = [adapter(base, kind, seed) for seed, kind in enumerate(kinds)]
    before, expected = answer(base), added(base, adapters, [0.5, 1.5])
    matches = attach_several(base, dict(zip(("one", "two"), adapters, strict=True)))
    try:
        assert all(not match.unmatched for match in matches.values())
        set_weight(base, 0.5, "one")
        set_weight(base, 1.5, "two")
        torch.testing.assert_close(answer(base), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(answer(base), before, atol=1e-3)
        set_weight(base, 0, "one")
        set_weight(base, 0, "two")
        assert torch.equal(answer(base), before)
    finally:
        detach(base)
    assert torch.equal(answer(base), before)
    assert not any(p.requires_grad for p in base.unet.parameters())


def test_a_dora_comes_back_from_weight_0_to_its_place_before_the_next(base):
    """A DoRA's update depends on what the adapters before it left of the layer."""
    first, second = adapter(base, "lora", 1), adapter(base, "lora", 2)
    for place, layer in second.layers.items():
        second.layers[place] = replace(layer, magnitude=torch.ones(len(layer.B)))
    before = answer(base)
    attach_several(base, {"one": second, "two": first})
    try:
        both = answer(base)
        set_weight(base, 0, "two")
        alone = answer(base)
        set_weight(base, 0, "one")
        assert torch.equal(answer(base), before)
        set_weight(base, 1, "two")
        set_weight(base, 1, "one")
        assert torch.equal(answer(base), both)
        set_weight(base, 0, "two")
        assert torch.equal(answer(base), alone) and not torch.equal(alone, both)
    finally:
        detach(base)


def test_no_warning_tells_that_there_are_several(base, recwarn):
    attach_several(base, {"first": adapter(base, "lora", 1), "second": adapter(base, "singlora", 2)})
    detach(base)
    assert not [str(one.message) for one in recwarn]


def test_when_one_does_not_fit_none_stays(base):
    before = answer(base)
    fits = adapter(base, "lora", 1)
    foreign = Adapter({Place("unet", "nowhere.to_q"): PlainLayer(torch.ones(2, 4), torch.ones(4, 2))})
    with pytest.raises(RequestError, match="0 of 1 layers fit"):
        attach_several(base, {"one": fits, "two": foreign})
    assert torch.equal(answer(base), before)
    attach_several(base, {"one": fits})
    detach(base)


def test_the_one_that_does_not_fit_is_named_and_can_be_left_out(base):
    fits = replace(adapter(base, "lora", 1), name="runs/owl")
    place, layer = next(iter(fits.layers.items()))
    wide = PlainLayer(torch.ones(2, 999), layer.B)
    normed = replace(layer, magnitude=torch.ones(len(layer.B)))
    for layers, told in (
        ({place: wide}, "wide.safetensors was made for another architecture"),
        ({Place("unet", "nowhere"): layer}, "wide.safetensors does not match: 0 of 1 layers fit"),
        (fits.layers | {place: normed}, "wide.safetensors mixes LoRA with DoRA"),
    ):
        foreign = Adapter(layers, name="a/wide.safetensors")
        with pytest.raises(RequestError, match=told) as several:
            attach_several(base, {"one": fits, "two": foreign})
        with pytest.raises(RequestError, match=told) as alone:
            attach_several(base, {"one": foreign})
        if "mixes" not in told:
            assert "leave it out" in several.value.fix and "--base" not in several.value.fix
            assert "with --base" in alone.value.fix
