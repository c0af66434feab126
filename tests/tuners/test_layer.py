"""The symmetric layer against its dense formula, written out here from A and Lambda alone."""

import copy
from functools import partial

import pytest
import torch
from helpers.adapters import CONFIGS, OneLinear, adapted_linear, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers.pytorch_utils import Conv1D

from symdream.tuners import set_ramp

SHAPES = [(320, 320), (768, 320), (768, 1280), (1280, 768), (1024, 640), (2048, 640)]
METHODS = sorted(CONFIGS)


def dense_formula(layer, name="default", u=1.0, weight=1.0):
    """dW = weight * alpha / r * A_out diag(d) A_in^T with A = rows of the stored matrix, element by element."""
    if hasattr(layer, "singlora_A"):
        A, d = layer.singlora_A[name].T, torch.full((layer.r[name],), u, dtype=torch.float64)
    else:
        A, d = layer.symlora_A[name].T, layer.symlora_lambda[name]
    A = A.double()
    scale = weight * layer.alpha[name] / layer.r[name]
    return scale * torch.einsum("or,r,ir->oi", A[: layer.out_features], d.double(), A[: layer.in_features])


def relative_error(value, truth):
    return ((value.double() - truth.double()).norm() / truth.double().norm()).item()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("r", [1, 8, 64])
@pytest.mark.parametrize(("n_in", "n_out"), SHAPES)
def test_forward_equals_the_dense_formula(method, r, n_in, n_out):
    layer = adapted_linear(method, n_in, n_out, r, torch.float64, alpha=3.0)
    set_ramp(layer, 0.25)
    x = torch.randn(2, 5, n_in, dtype=torch.float64)
    delta = dense_formula(layer, u=0.25)
    truth = x @ (layer.base_layer.weight + delta).T + layer.base_layer.bias
    assert relative_error(layer(x), truth) < 1e-6
    assert relative_error(layer(x) - layer.base_layer(x), x @ delta.T) < 1e-6
    assert relative_error(layer.get_delta_weight("default"), delta) < 1e-6


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(METHODS),
    n_in=st.integers(1, 40),
    n_out=st.integers(1, 40),
    leading=st.lists(st.integers(0, 3), max_size=3),
    u=st.floats(0, 1),
    weight=st.floats(-2, 2),
    data=st.data(),
)
def test_forward_equals_the_dense_formula_for_any_shape(method, n_in, n_out, leading, u, weight, data):
    r = data.draw(st.integers(1, min(n_in, n_out)))
    layer = adapted_linear(method, n_in, n_out, r, torch.float64)
    set_ramp(layer, u)
    layer.set_scale("default", weight)
    x = torch.randn(*leading, n_in, dtype=torch.float64)
    # u is float32 on the device: 0.1 is not representable, and 1e-7 relative is what it may cost.
    truth = x @ (layer.base_layer.weight + dense_formula(layer, u=u, weight=weight)).T + layer.base_layer.bias
    torch.testing.assert_close(layer(x), truth, rtol=1e-6, atol=1e-6)
    assert layer(x).shape == (*leading, n_out)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n_in", "n_out"), [(5, 5), (7, 3), (3, 7)])
def test_gradients_pass_gradcheck(method, n_in, n_out):
    layer = adapted_linear(method, n_in, n_out, r=2, dtype=torch.float64)
    set_ramp(layer, 0.5)
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    assert len(trained) == (1 if method == "singlora" else 2)
    x = torch.randn(4, n_in, dtype=torch.float64, requires_grad=True)

    def output(x, *parameters):
        return torch.func.functional_call(layer, dict(zip(trained, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(output, (x, *(p.detach().requires_grad_() for p in trained.values())))


@pytest.mark.parametrize("method", METHODS)
def test_no_matrix_of_the_weights_size_is_made_in_forward_or_backward(method):
    class Shapes(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.seen = set()

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            self.seen |= {(str(func), tuple(t.shape)) for t in tree_leaves(out) if isinstance(t, torch.Tensor)}
            return out

    n_in, n_out, r, tokens = 31, 37, 3, 5
    layer = adapted_linear(method, n_in, n_out, r)
    with Shapes() as shapes:
        layer(torch.randn(tokens, n_in, requires_grad=True)).sum().backward()
    views = ("aten.t.", "aten.transpose", "aten.permute", "aten.detach", "aten.view")  # of the base's own weight
    made = {shape for name, shape in shapes.seen if not name.startswith(views)}
    assert (tokens, n_out) in made  # the watch works
    assert not {(n_out, n_in), (n_in, n_out)} & made


@pytest.mark.parametrize("base", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_float32_and_the_output_has_the_inputs_dtype(method, base):
    layer = adapted_linear(method, 48, 32, dtype=base)
    assert {p.dtype for p in layer.parameters() if p.requires_grad} == {torch.float32}
    x = torch.randn(6, 48, dtype=base)
    assert layer(x).dtype == base
    truth = x.double() @ (layer.base_layer.weight.double() + dense_formula(layer)).T + layer.base_layer.bias.double()
    assert relative_error(layer(x), truth) < {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[base]
    layer(x).float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize("method", METHODS)
def test_double_is_honoured_and_half_is_not(method):
    layer = adapted_linear(method, 8, 8)
    assert {p.dtype for p in layer.double().parameters()} == {torch.float64}
    assert adapted_linear(method, 8, 8, dtype=torch.float64).double()(torch.ones(8).double()).dtype == torch.float64
    layer = adapted_linear(method, 8, 8)
    before = [p.clone() for p in layer.parameters() if p.requires_grad]
    layer.to(torch.bfloat16)
    assert layer.base_layer.weight.dtype == torch.bfloat16
    after = [p for p in layer.parameters() if p.requires_grad]
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_the_output_has_the_dtype_of_the_bases_own_under_autocast(method):
    layer = adapted_linear(method, 16, 24)
    x = torch.randn(3, 16)
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, base = layer(x), layer.base_layer(x)
        y.square().mean().backward()
    assert y.dtype == base.dtype == torch.bfloat16
    assert relative_error(y, full) < 2e-2
    assert all(p.grad.dtype == torch.float32 and p.grad.any() for p in layer.parameters() if p.requires_grad)
    with torch.autocast("cpu", torch.bfloat16):
        layer.merge()
        assert layer(x).dtype == torch.bfloat16


class PreciseHead(nn.Linear):
    """As models have them that compute their logits in fp32, whatever their weights are in."""

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.linear(x.float(), self.weight.float(), None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_base_that_answers_in_more_precision_keeps_it(method, autocast):
    head = PreciseHead(16, 24, bias=False, dtype=torch.bfloat16)
    model = get_peft_model(nn.Sequential(head), CONFIGS[method](r=4, target_modules=["0"]))
    layer = model.base_model.model[0]
    randomize(layer)
    x = torch.randn(5, 16, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y, mixed = layer(x), layer(x, adapter_names=["default"] * 5)
    truth = x.double() @ (head.weight.double() + dense_formula(layer)).T
    assert y.dtype == mixed.dtype == torch.float32
    assert relative_error(y, truth) < 1e-6 and relative_error(mixed, truth) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n_in", "n_out"), [(16, 16), (16, 48), (48, 16)])
def test_a_conv1d_is_a_linear_layer_that_lies_transposed(method, n_in, n_out):
    base = Conv1D(n_out, n_in).double()
    nn.init.normal_(base.bias)
    model = get_peft_model(nn.Sequential(base), CONFIGS[method](r=4, target_modules=["0"]))
    layer, x = model.base_model.model[0], torch.randn(2, 3, n_in, dtype=torch.float64)
    randomize(layer)
    delta = dense_formula(layer)
    truth = x @ (base.weight + delta.T) + base.bias
    assert torch.allclose(layer(x), truth, atol=1e-12)
    assert layer.get_delta_weight("default").shape == base.weight.shape
    assert torch.allclose(layer.get_delta_weight("default"), delta.T, atol=1e-12)
    A, B = layer.lora_factors("default")
    assert torch.allclose(B @ A, delta, atol=1e-12)
    before = base.weight.clone()
    layer.merge(safe_merge=True)
    assert torch.allclose(layer(x), truth, atol=1e-12)
    layer.unmerge()
    assert torch.allclose(base.weight, before, atol=1e-12)


def test_symlora_starts_as_an_exact_no_op_and_its_first_step_moves_only_lambda():
    model = get_peft_model(OneLinear(12, 20), CONFIGS["symlora"](r=4, target_modules=["linear"]))
    layer, x = model.base_model.model.linear, torch.randn(3, 12)
    assert torch.equal(model(x), layer.base_layer(x))
    model(x).square().sum().backward()
    assert not layer.symlora_A["default"].grad.any()
    assert layer.symlora_lambda["default"].grad.all()


@pytest.mark.parametrize(("n_in", "n_out"), [(12, 20), (16, 16), (20, 12)])
def test_singlora_at_ramp_zero_is_an_exact_no_op(n_in, n_out):
    layer, x = adapted_linear("singlora", n_in, n_out), torch.randn(3, n_in)
    set_ramp(layer, 0)
    assert torch.equal(layer(x), layer.base_layer(x))
    assert not layer.get_delta_weight("default").any()


def test_singlora_update_has_no_negative_eigenvalue_on_square_layers_and_symlora_can_have():
    assert torch.linalg.eigvalsh(adapted_linear("singlora", 24, 24).get_delta_weight("default")).min() > -1e-6
    assert torch.linalg.eigvalsh(adapted_linear("symlora", 24, 24).get_delta_weight("default")).min() < -0.1


@pytest.mark.parametrize("n", [320, 1280])
@pytest.mark.parametrize(("init", "factor"), [("kaiming", 1.0), ("small", 0.01)])
def test_singlora_starts_with_a_perturbation_of_known_size(init, factor, n):
    torch.manual_seed(0)
    config = CONFIGS["singlora"](r=8, target_modules=["linear"], init_weights=init)
    layer = get_peft_model(OneLinear(n, n), config).base_model.model.linear
    norm = torch.linalg.matrix_norm(layer.get_delta_weight("default"), ord=2)
    assert 0.3 * factor < norm < 0.5 * factor  # seen: 0.4, where the paper's (n, r) layout gives 17 to 60
    assert layer.singlora_A["default"].shape == (8, n)


@pytest.mark.parametrize("method", METHODS)
def test_several_adapters_add_up_each_with_its_weight(method):
    model = get_peft_model(OneLinear(20, 12, torch.float64), CONFIGS[method](r=2, target_modules=["linear"]))
    model.add_adapter("second", CONFIGS[method](r=5, alpha=1.0, target_modules=["linear"]))
    layer, x = model.base_model.model.linear, torch.randn(3, 20, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    layer.set_adapter(["default", "second"])
    layer.set_scale("default", -0.5)
    layer.set_scale("second", 2.0)
    layer.set_scale("absent", 7.0)
    delta = dense_formula(layer, "default", weight=-0.5) + dense_formula(layer, "second", weight=2.0)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ delta.T)
    layer.scale_layer(3.0)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + 3 * x @ delta.T)
    layer.unscale_layer(3.0)
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ delta.T)
    layer.unscale_layer()
    delta = dense_formula(layer, "default") + dense_formula(layer, "second")
    torch.testing.assert_close(layer(x), layer.base_layer(x) + x @ delta.T)


def test_singlora_and_symlora_share_a_layer():
    model = OneLinear(20, 12, torch.float64)
    x = torch.randn(3, 20, dtype=torch.float64)
    base = model(x)
    from peft import inject_adapter_in_model

    for method in METHODS:
        inject_adapter_in_model(CONFIGS[method](r=2, target_modules=["linear"]), model, method)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora" in name:
                p.normal_()
    outer, inner = model.linear, model.linear.base_layer
    for layer in (outer, inner):
        layer.set_adapter(METHODS)
    deltas = [dense_formula(layer, name) for layer, name in ((inner, "singlora"), (outer, "symlora"))]
    truth = base + x @ sum(deltas).T
    torch.testing.assert_close(model(x), truth)
    for layer in (outer, inner):
        layer.merge(safe_merge=True)
    torch.testing.assert_close(model(x), truth)
    for layer in (outer, inner):
        layer.unmerge()
    torch.testing.assert_close(model(x), truth)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merge_and_unmerge(method, dtype):
    layer = adapted_linear(method, 20, 12, dtype=dtype)
    layer.set_scale("default", 0.7)
    x, weight = torch.randn(3, 20, dtype=dtype), layer.base_layer.weight.clone()
    before, place = layer(x), layer.base_layer.weight.data_ptr()
    layer.merge(safe_merge=True)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(layer(x), before, rtol=tolerance, atol=tolerance)
    truth = (weight.double() + dense_formula(layer, weight=0.7)).to(dtype)
    torch.testing.assert_close(layer.base_layer.weight.data, truth, rtol=tolerance, atol=tolerance)
    # What was added is taken away, whatever is set in between.
    layer.set_scale("default", 5.0)
    set_ramp(layer, 0.1)
    layer.unmerge()
    torch.testing.assert_close(layer.base_layer.weight.data, weight.data, rtol=tolerance, atol=tolerance)
    assert layer.base_layer.weight.data_ptr() == place  # which a CUDA graph may hold
    with pytest.warns(UserWarning, match="Already unmerged"):
        layer.unmerge()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_merging_into_half_precision_rounds_the_sum_once(method, dtype):
    layer = adapted_linear(method, 20, 12, dtype=dtype)
    weight, delta = layer.base_layer.weight.float(), layer.get_delta_weight("default").detach()
    layer.merge()
    merged = layer.base_layer.weight.clone()
    assert torch.equal(merged, (weight + delta).to(dtype))
    layer.unmerge()
    assert torch.equal(layer.base_layer.weight, (merged.float() - delta).to(dtype))


def test_an_adapter_that_is_not_merged_still_counts_beside_a_merged_one():
    model = get_peft_model(OneLinear(9, 9, torch.float64), CONFIGS["singlora"](r=2, target_modules=["linear"]))
    model.add_adapter("second", CONFIGS["singlora"](r=2, target_modules=["linear"]))
    model.base_model.set_adapter(["default", "second"])
    layer, x = model.base_model.model.linear, torch.randn(3, 9, dtype=torch.float64)
    both = model(x)
    layer.merge(adapter_names=["default"])
    torch.testing.assert_close(model(x), both)
    with pytest.raises(ValueError, match="unmerge it"):
        layer.delete_adapter("default")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_safe_merge_refuses_what_is_not_finite_and_changes_nothing(method, value):
    layer = adapted_linear(method, 8, 8)
    weight = layer.base_layer.weight.clone()
    with torch.no_grad():
        getattr(layer, layer.A_name)["default"].fill_(value)
    with pytest.raises(ValueError, match="not finite"):
        layer.merge(safe_merge=True)
    assert torch.equal(layer.base_layer.weight, weight)
    assert not layer.merged


@pytest.mark.parametrize("method", ["lora", *METHODS])
def test_safe_merge_keeps_those_before_the_one_that_is_not_finite(method):
    """PEFT's LoRA is the measure."""
    config = partial(LoraConfig, init_lora_weights=False) if method == "lora" else CONFIGS[method]
    model = get_peft_model(OneLinear(8, 8), config(r=2, target_modules=["linear"]))
    model.add_adapter("second", config(r=2, target_modules=["linear"]))
    layer = model.base_model.model.linear
    layer.set_adapter(["default", "second"])
    with torch.no_grad():
        for name, p in layer.named_parameters():
            if "lora" in name:
                p.fill_(float("nan")) if "second" in name else p.normal_()
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    with pytest.raises(ValueError, match="second"):
        layer.merge(safe_merge=True)
    assert layer.merged_adapters == ["default"]
    torch.testing.assert_close(layer.base_layer.weight, expected)


def test_disabled_layer_is_the_base_even_when_merged():
    layer, x = adapted_linear("symlora", 8, 8), torch.randn(2, 8)
    base, adapted = layer.base_layer(x), layer(x)
    layer.enable_adapters(False)
    assert torch.equal(layer(x), base)
    layer.enable_adapters(True)
    assert torch.equal(layer(x), adapted)
    layer.merge()
    layer.enable_adapters(False)
    torch.testing.assert_close(layer(x), base, rtol=1e-5, atol=1e-6)
    assert not layer.merged


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("p", [0.5, 0.2])
def test_dropout_acts_on_the_adapters_input_in_training_only(method, p):
    layer = adapted_linear(method, 64, 64, dropout=p)
    x = torch.ones(2000, 64)
    adapter_part = (layer.eval()(x) - layer.base_layer(x)).detach()
    layer.train()
    torch.manual_seed(0)
    dropped = (layer(x) - layer.base_layer(x)).detach()
    assert dropped.std(0).min() > 0.005  # every token drew its own mask
    # Kept entries are enlarged, so that the mean stays.
    torch.testing.assert_close(dropped.mean(0), adapter_part[0], rtol=0.1, atol=0.1)
    torch.manual_seed(0)
    kept = nn.functional.dropout(x, p)
    torch.testing.assert_close(dropped, (kept.double() @ dense_formula(layer).T).float().detach(), rtol=1e-4, atol=1e-4)


def test_deepcopy_is_independent_and_keeps_one_ramp_for_all_its_layers():
    model = get_peft_model(
        nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)), CONFIGS["singlora"](r=2, target_modules=["0", "1"])
    )
    twin = copy.deepcopy(model)
    x = torch.randn(2, 8)
    before = model(x)
    set_ramp(twin, 0.0)
    assert torch.equal(model(x), before)
    assert twin.peft_config["default"].u == 0.0
    assert model.peft_config["default"].u == 1.0
    first, second = twin.base_model.model
    assert first.ramps["default"] is second.ramps["default"]
