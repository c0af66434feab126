"""Closed-form export: plain LoRA factors whose product is the update."""

import pytest
import torch
from helpers.adapters import adapted_linear
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn

from symdream.tuners import lora_factors, set_ramp


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["singlora", "symlora"]),
    n_in=st.integers(1, 30),
    n_out=st.integers(1, 30),
    alpha=st.floats(0.1, 20),
    u=st.floats(0, 1),
    balanced=st.booleans(),
    data=st.data(),
)
def test_b_times_a_is_the_update(method, n_in, n_out, alpha, u, balanced, data):
    r = data.draw(st.integers(1, min(n_in, n_out)))
    layer = adapted_linear(method, n_in, n_out, r, torch.float64, alpha=alpha)
    set_ramp(layer, u)
    A, B = lora_factors(layer, fp16_balanced=balanced)
    assert A.shape == (r, n_in) and B.shape == (n_out, r)
    torch.testing.assert_close(B @ A, layer.get_delta_weight("default"), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_the_weight_of_set_scale_is_not_exported(method):
    layer = adapted_linear(method, 6, 9)
    before = lora_factors(layer)
    layer.set_scale("default", -3.0)
    assert all(torch.equal(a, b) for a, b in zip(before, lora_factors(layer), strict=True))


def test_zero_lambda_exports_zeros_not_nan():
    layer = adapted_linear("symlora", 6, 6)
    with torch.no_grad():
        layer.symlora_lambda["default"].zero_()
    A, B = lora_factors(layer, fp16_balanced=True)
    assert not A.any() and not B.any()


def test_the_plain_form_keeps_a_as_it_was_trained_and_the_sign_in_b():
    layer = adapted_linear("symlora", 8, 5)
    A, B = lora_factors(layer)
    assert torch.equal(A, layer.symlora_A["default"][:, :8])
    ratio = B / layer.symlora_A["default"][:, :5].T
    torch.testing.assert_close(ratio.mean(0), layer.symlora_lambda["default"])


def test_balanced_factors_fit_fp16_where_the_plain_ones_do_not():
    layer = adapted_linear("symlora", 64, 64)
    with torch.no_grad():
        layer.symlora_A["default"].mul_(1e-4)
        layer.symlora_lambda["default"].copy_(torch.tensor([1e6, -1e6, 2e6, 5e5]))
    truth = layer.get_delta_weight("default")
    error = {}
    for balanced in (False, True):
        A, B = (factor.half().float() for factor in lora_factors(layer, fp16_balanced=balanced))
        error[balanced] = ((B @ A - truth).norm() / truth.norm()).item()
    assert error[True] < 1e-3 < error[False]


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_the_factors_work_in_pefts_own_lora(method):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(7, 11)

    layer = adapted_linear(method, 7, 11, alpha=2.0)
    model = get_peft_model(Model(), LoraConfig(r=4, lora_alpha=4, target_modules=["linear"]))
    lora = model.base_model.model.linear
    lora.base_layer.load_state_dict(layer.base_layer.state_dict())
    A, B = lora_factors(layer)
    with torch.no_grad():
        lora.lora_A["default"].weight.copy_(A)
        lora.lora_B["default"].weight.copy_(B)
    x = torch.randn(3, 7)
    torch.testing.assert_close(lora(x), layer(x), rtol=1e-5, atol=1e-6)
