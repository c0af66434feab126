"""Folding an adapter into weights of half precision, against the sum in float64."""

import pytest
import torch
from helpers.tiny_bases import adapted
from torch import nn

from symdream.errors import WorkError
from symdream.interop.merge import merge_into


def halved(method: str, dtype: torch.dtype):
    """A tiny base in half precision, its adapter in fp32."""
    base = adapted("sd1", method)
    for model in base.components().values():
        kept = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
        nn.Module.to(model, dtype=dtype)
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.data = kept[name]
    return base


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_is_rounded_once(dtype):
    base = halved("lora", dtype)
    expected = {}
    for component, model in base.components().items():
        for name, layer in model.named_modules():
            if hasattr(layer, "lora_A"):
                A, B = (getattr(layer, part)["default"].weight.double() for part in ("lora_A", "lora_B"))
                expected[component, name] = layer.get_base_layer().weight.double() + layer.scaling["default"] * B @ A
    assert merge_into(base) == len(expected) > 10
    wrong = total = 0
    for (component, name), whole in expected.items():
        weight = base.components()[component].get_submodule(name).weight
        assert weight.dtype == dtype
        wrong += int((weight != whole.to(dtype)).sum())
        total += weight.numel()
    assert wrong <= 1e-3 * total  # a sum in fp32 falls on another side of a tie now and then


def test_a_sum_that_the_format_cannot_hold_is_refused():
    base = halved("lora", torch.float16)
    layer = next(m for m in base.unet.modules() if hasattr(m, "lora_A"))
    layer.scaling["default"] = 1e6
    with pytest.raises(WorkError, match="cannot be merged: .*float16"):
        merge_into(base)
