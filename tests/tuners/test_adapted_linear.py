"""One function for a layer and its update: the same numbers as PyTorch's chain, and gradients that are gradients."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

from symdream.tuners import SingLoraConfig, SymLoraConfig
from symdream.tuners.adapted_linear import AdaptedLinear, can_be_one
from symdream.tuners.layer import SingLoraLinear, SymLoraLinear
from symdream.tuners.ramp import Ramp

SHAPES = [(6, 6), (5, 9), (9, 5)]


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("in_features", "out_features"), SHAPES)
@pytest.mark.parametrize("vector", [False, True])
@pytest.mark.parametrize("s", [1.0, 0.7])
def test_gradcheck(in_features, out_features, vector, s):
    x = drawn(2, 3, in_features, seed=1).requires_grad_()
    A = drawn(2, max(in_features, out_features), seed=2).requires_grad_()
    d = (drawn(2, seed=3) if vector else torch.tensor(0.3, dtype=torch.float64)).requires_grad_()
    weight, bias = drawn(out_features, in_features, seed=4), drawn(out_features, seed=5)
    assert torch.autograd.gradcheck(lambda x, A, d: AdaptedLinear.apply(x, weight, bias, A, d, s), (x, A, d))
    assert torch.autograd.gradcheck(lambda A: AdaptedLinear.apply(x.detach(), weight, None, A, d.detach(), s), (A,))
    assert torch.autograd.gradgradcheck(lambda x, A, d: AdaptedLinear.apply(x, weight, bias, A, d, s), (x, A, d))
    assert torch.autograd.gradgradcheck(lambda A: AdaptedLinear.apply(x.detach(), weight, None, A, d.detach(), s), (A,))


@pytest.mark.parametrize("s", [1.0, 0.7])
def test_gradients_that_can_be_differentiated_again_are_the_same(s):
    x, A, d = drawn(4, 5, seed=1).requires_grad_(), drawn(2, 9, seed=2).requires_grad_(), drawn(2, seed=3)
    y = AdaptedLinear.apply(x, drawn(9, 5, seed=4), drawn(9, seed=5), A, d.requires_grad_(), s).square().sum()
    again = torch.autograd.grad(y, (x, A, d), create_graph=True)
    for found, once in zip(again, torch.autograd.grad(y, (x, A, d)), strict=True):
        torch.testing.assert_close(found, once)


def make(kind, in_features, out_features, alpha):
    """A layer with an adapter that has an effect, in float64."""
    torch.manual_seed(0)
    linear = nn.Linear(in_features, out_features, dtype=torch.float64).requires_grad_(False)
    layer = kind(linear)
    if kind is SingLoraLinear:
        config = SingLoraConfig(r=2, alpha=alpha, target_modules=["x"])
        ramp = Ramp(config)
        ramp.set(0.6)
        layer.update_layer("default", config, ramp)
    else:
        layer.update_layer("default", SymLoraConfig(r=2, alpha=alpha, target_modules=["x"]))
        layer.symlora_lambda["default"].data.copy_(torch.tensor([0.5, -1.5]))
    layer.set_adapter("default")
    return layer.train()


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
@pytest.mark.parametrize(("in_features", "out_features"), SHAPES)
@pytest.mark.parametrize("alpha", [2.0, 5.0])
def test_it_equals_the_chain_of_operations(kind, in_features, out_features, alpha):
    layer = make(kind, in_features, out_features, alpha)
    x = drawn(2, 3, in_features, seed=1)
    found = []
    for watched in (False, True):
        handle = layer.base_layer.register_forward_hook(lambda *_: None) if watched else None
        assert can_be_one(layer.base_layer, x) != watched
        given = x.clone().requires_grad_()
        y = layer(given)
        layer.zero_grad()
        y.square().sum().backward()
        found.append([y, given.grad, *(p.grad.clone() for p in layer.parameters() if p.requires_grad)])
        if handle:
            handle.remove()
    for ours, chain in zip(*found, strict=True):
        torch.testing.assert_close(ours, chain, rtol=1e-12, atol=1e-12)
    dense = x @ (layer.base_layer.weight + layer.get_delta_weight("default")).T + layer.base_layer.bias
    torch.testing.assert_close(found[0][0], dense)


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
@pytest.mark.parametrize("shape", [(5,), (4, 5), (2, 3, 5)])
@pytest.mark.parametrize(("aside", "in_place"), [(torch.relu, torch.relu_), (torch.exp, torch.exp_)])
def test_the_output_may_be_changed_in_place(kind, shape, aside, in_place):
    layer = make(kind, 5, 9, 2.0)
    found = []
    for change in (aside, in_place):
        x = drawn(*shape, seed=1).requires_grad_()
        layer.zero_grad()
        y = change(layer(x))
        y.square().sum().backward()
        found.append([y, x.grad, *(p.grad.clone() for p in layer.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
def test_per_sample_gradients_and_curvature_by_torch_func(kind):
    layer = make(kind, 5, 9, 2.0)
    x = drawn(4, 3, 5, seed=1)
    trained = {name: p.detach() for name, p in layer.named_parameters() if p.requires_grad}
    frozen = {name: p.detach() for name, p in layer.named_parameters() if name not in trained}

    def loss(trained, x):
        return torch.func.functional_call(layer, trained | frozen, (x,)).sin().sum()

    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(trained, x)
    for i, sample in enumerate(x):
        layer.zero_grad()
        layer(sample).sin().sum().backward()
        for name, parameter in layer.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(found[name][i], parameter.grad)

    # H v forward over reverse, against reverse over reverse through the one function.
    v = {name: drawn(*p.shape, seed=7) for name, p in trained.items()}
    _, product = torch.func.jvp(lambda p: torch.func.grad(loss)(p, x), (trained,), (v,))
    parameters = [layer.get_parameter(name) for name in trained]
    gradient = torch.autograd.grad(layer(x).sin().sum(), parameters, create_graph=True)
    along = sum((g * v[name]).sum() for g, name in zip(gradient, trained, strict=True))
    for name, curved in zip(trained, torch.autograd.grad(along, parameters), strict=True):
        torch.testing.assert_close(curved, product[name])


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
def test_forward_mode_differentiation_gives_the_dense_formulas_tangent(kind):
    layer = make(kind, 5, 9, 2.0)
    x, tangent = drawn(4, 5, seed=1), drawn(4, 5, seed=2)
    with forward_ad.dual_level():
        found = forward_ad.unpack_dual(layer(forward_ad.make_dual(x, tangent))).tangent
    dense = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(found, tangent @ dense.T)
    assert can_be_one(layer.base_layer, x)


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
def test_a_traced_layer_is_saved_and_answers_for_batches_of_any_size(kind, tmp_path):
    layer = make(kind, 5, 9, 2.0).eval()
    with torch.no_grad():
        torch.jit.trace(layer, drawn(4, 5)).save(tmp_path / "layer.pt")
    x = drawn(7, 5, seed=1)
    torch.testing.assert_close(torch.jit.load(tmp_path / "layer.pt")(x), layer(x))


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
def test_a_frozen_adapter_passes_the_gradient_on_to_what_is_before_it(kind):
    layer = make(kind, 5, 9, 2.0).requires_grad_(False)
    x, y_grad = drawn(4, 5, seed=1).requires_grad_(), drawn(4, 9, seed=2)
    layer(x).backward(y_grad)
    torch.testing.assert_close(x.grad, y_grad @ (layer.base_layer.weight + layer.get_delta_weight("default")))


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
@pytest.mark.parametrize("watch", ["before", "after", "backward", "backward before", "own forward"])
def test_whoever_watches_the_base_layer_sees_it_run(kind, watch):
    """Accelerate brings weights to the device by a pre-hook or by a forward of the module's own."""
    layer, x, seen = make(kind, 5, 9, 2.0), drawn(4, 5, seed=1).requires_grad_(), []
    base = layer.base_layer
    if watch == "own forward":
        base.forward = lambda x: seen.append(x) or nn.functional.linear(x, base.weight, base.bias)
    else:
        register = {
            "before": base.register_forward_pre_hook,
            "after": base.register_forward_hook,
            "backward": base.register_full_backward_hook,
            "backward before": base.register_full_backward_pre_hook,
        }[watch]
        register(lambda *args: seen.append(args))  # None: nothing is changed
    layer(x).sum().backward()
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [SingLoraLinear, SymLoraLinear])
@pytest.mark.parametrize("trained", ["weight", "bias"])
def test_what_the_base_trains_gets_its_gradient(kind, trained):
    layer = make(kind, 5, 9, 2.0)
    parameter = getattr(layer.base_layer, trained).requires_grad_()
    x, delta = drawn(4, 5, seed=1), layer.get_delta_weight("default").detach()
    layer(x).square().sum().backward()
    dense = nn.functional.linear(x, layer.base_layer.weight + delta, layer.base_layer.bias)
    torch.testing.assert_close(parameter.grad, torch.autograd.grad(dense.square().sum(), parameter)[0])


def test_in_bf16_the_masters_gradient_is_fp32():
    layer = make(SymLoraLinear, 6, 6, 2.0).float().bfloat16()
    assert layer.symlora_A["default"].dtype == torch.float32 and layer.base_layer.weight.dtype == torch.bfloat16
    y = layer(drawn(3, 6).bfloat16().requires_grad_())
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.symlora_A["default"].grad.dtype == layer.symlora_lambda["default"].grad.dtype == torch.float32


def test_it_keeps_no_more_for_the_backward_pass_than_the_chain():
    layer = make(SingLoraLinear, 6, 6, 2.0)
    kept = []
    for watched in (False, True):
        if watched:
            layer.base_layer.register_forward_hook(lambda *_: None)
        tensors = {}

        def keep(tensor, tensors=tensors):
            tensors[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            y = layer(drawn(50, 6).requires_grad_())
        kept.append(sum(tensors.values()))
        del y
    assert kept[0] <= kept[1]
