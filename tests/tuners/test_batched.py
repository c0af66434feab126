"""N adapters at once on layers of every shape: each row of the batch as PEFT's own layers answer for its adapter."""

import copy

import pytest
import torch
from peft import get_peft_model
from torch import nn

from symdream.training.batched_optimizer import StackedAdamW
from symdream.tuners import METHODS, set_ramp
from symdream.tuners.batched import AdapterStack, BatchedLinear, StackedAdapter, installed, layer_and_kind

PREFIX = "base_model.model."
RANK, ALPHA = 3, 1.5


class Net(nn.Module):
    """Layers that are square, wide and tall, with and without bias."""

    def __init__(self):
        super().__init__()
        self.square, self.tall = nn.Linear(8, 8), nn.Linear(8, 12, bias=False)
        self.inner = nn.ModuleList([nn.Linear(12, 8)])

    def forward(self, x):
        return self.inner[0](torch.tanh(self.tall(torch.tanh(self.square(x)))))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().requires_grad_(False)


def solo(net, method, seed, u=1.0):
    """A PEFT model with every trained parameter away from its start, and its StackedAdapter."""
    torch.manual_seed(seed)
    config = METHODS[method].config(RANK, ALPHA, ["square", "tall", "inner.0"], 0.0)
    model = get_peft_model(copy.deepcopy(net), config)
    for name, p in model.named_parameters():
        if p.requires_grad and "magnitude" not in name:
            nn.init.normal_(p, std=0.3)
        elif p.requires_grad:  # a norm to begin with, but trained freely
            p.data *= torch.linspace(-0.5, 1.5, len(p))
    set_ramp(model, u)
    named = {n.removeprefix(PREFIX): p for n, p in model.named_parameters() if p.requires_grad}
    return model, StackedAdapter(method, ALPHA / RANK, named, u)


MIXES = [
    ("lora", "lora+"),
    ("dora", "dora"),
    ("lora", "dora", "lora+"),
    ("singlora", "symlora", "singlora"),
    ("symlora",),
]


@pytest.mark.parametrize("methods", MIXES, ids="-".join)
def test_outputs_and_gradients_are_those_of_each_adapter_alone(net, methods):
    alone = [solo(net, method, seed, u=0.25 + seed / 4) for seed, method in enumerate(methods)]
    x = torch.randn(len(methods), 2, 5, 8, generator=torch.Generator().manual_seed(9))
    stack = AdapterStack([adapter for _, adapter in alone], torch.device("cpu"), torch.float32)
    with installed(net, stack):
        y = net(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        y.square().sum().backward()
    for row, (model, adapter) in enumerate(alone):
        wanted = model(x[row])
        torch.testing.assert_close(y[row], wanted, rtol=1e-5, atol=1e-6)
        wanted.square().sum().backward()
        stack.values.data.copy_(stack.values.grad)  # to read gradients by name
        for name, gradient in stack.read(row, list(adapter.parameters)).items():
            torch.testing.assert_close(gradient, adapter.parameters[name].grad, rtol=1e-4, atol=1e-5)


def test_rows_never_mix(net):
    adapters = [solo(net, "symlora", seed)[1] for seed in range(3)]
    stack = AdapterStack(adapters, torch.device("cpu"), torch.float32)
    x = torch.randn(3, 8)
    with installed(net, stack):
        net(x)[1].sum().backward()
    changed = stack.values.grad.abs().sum(1) > 0
    assert changed.tolist() == [False, True, False]


def test_afterwards_the_model_is_as_before(net):
    before, x = dict(net.named_modules()), torch.randn(4, 8)
    wanted = net(x)
    stack = AdapterStack([solo(net, "lora", 0)[1]] * 2, torch.device("cpu"), torch.float32)
    with pytest.raises(RuntimeError, match="on purpose"), installed(net, stack):
        assert isinstance(net.square, BatchedLinear) and not torch.allclose(net(x), wanted)
        raise RuntimeError("on purpose")
    assert dict(net.named_modules()) == before and torch.equal(net(x), wanted)


def test_what_is_written_is_read_back_and_other_rows_stay(net):
    adapters = [solo(net, method, seed)[1] for seed, method in enumerate(("singlora", "symlora"))]
    stack = AdapterStack(adapters, torch.device("cpu"), torch.float32)
    for row, adapter in enumerate(adapters):
        for name, value in stack.read(row, list(adapter.parameters)).items():
            assert torch.equal(value, adapter.parameters[name])


def test_families_ranks_and_layers_do_not_mix(net):
    def stack(*adapters):
        return AdapterStack(adapters, torch.device("cpu"), torch.float32)

    lora, symlora = solo(net, "lora", 0)[1], solo(net, "symlora", 0)[1]
    with pytest.raises(ValueError, match="one family"):
        stack(lora, symlora)
    fewer = {name: value for name, value in lora.parameters.items() if not name.startswith("tall")}
    with pytest.raises(ValueError, match="same layers"):
        stack(lora, StackedAdapter("lora", 1.0, fewer))
    other = {name: torch.zeros(RANK + 1, *value.shape[1:]) for name, value in lora.parameters.items()}
    with pytest.raises(ValueError, match="one shape"):
        stack(lora, StackedAdapter("lora", 1.0, other))
    with pytest.raises(ValueError, match="no method"):
        stack(StackedAdapter("lora", 1.0, {"square.weight": torch.zeros(1)}))
    net.square = nn.Linear(9, 8)
    with pytest.raises(ValueError, match="another shape"), installed(net, stack(lora)):
        pass
    net.square = nn.Linear(7, 7)
    with pytest.raises(ValueError, match="another shape"), installed(net, stack(symlora)):
        pass


def test_layers_that_answer_otherwise_than_a_plain_linear_layer_are_refused(net):
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    model, adapter = solo(net, "lora", 0)
    stack = AdapterStack([adapter], torch.device("cpu"), torch.float32)
    with pytest.raises(ValueError, match="take other adapters off"), installed(model.base_model.model, stack):
        pass
    net.tall = Doubled(8, 12, bias=False)
    with pytest.raises(ValueError, match="tall is a Doubled"), installed(net, stack):
        pass
    assert type(net.square) is nn.Linear


def test_the_optimizer_is_clipping_and_adamw_for_each_alone(net):
    methods, lrs, decays, limits = ("lora+", "lora", "dora"), (1e-2, 3e-3, 2e-2), (0.1, 0.0, 0.01), (0.5, 1e9, 1e-3)
    alone = [solo(net, method, seed) for seed, method in enumerate(methods)]
    stack = AdapterStack([adapter for _, adapter in alone], torch.device("cpu"), torch.float32)
    shape = stack.values.shape
    rates = torch.tensor(lrs)[:, None].expand(shape)
    optimizer = StackedAdamW([stack], [rates], torch.tensor(decays), torch.tensor(limits))
    theirs = [
        torch.optim.AdamW(list(a.parameters.values()), lr=lr, weight_decay=decay)
        for (_, a), lr, decay in zip(alone, lrs, decays, strict=True)
    ]
    generator = torch.Generator().manual_seed(1)
    for step in range(4):
        factor = 1 - step / 8
        optimizer.factors.fill_(factor)
        optimizer.zero_grad()
        norms = []
        for row, (_, adapter) in enumerate(alone):
            # What a row's method does not train (LoRA: a magnitude) never gets a gradient.
            gradients = {
                name: torch.randn(p.shape, generator=generator) * 10.0**-step for name, p in adapter.parameters.items()
            }
            for name, columns in by_name(stack, adapter):
                stack.values.grad[row, columns] = gradients[name].flatten()
                adapter.parameters[name].grad = gradients[name]
            norms.append(torch.nn.utils.clip_grad_norm_(list(adapter.parameters.values()), limits[row]))
            theirs[row].param_groups[0]["lr"] = lrs[row] * factor
            theirs[row].step()
        optimizer.step()
        torch.testing.assert_close(optimizer.norms, torch.stack(norms))
    for row, (_, adapter) in enumerate(alone):
        for name, value in stack.read(row, list(adapter.parameters)).items():
            torch.testing.assert_close(value, adapter.parameters[name].detach(), rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped_by_their_norm_over_all_models_that_are_adapted(net):
    """As clip_grad_norm_ over the UNet's and the text encoder's parameters together."""
    stacks = [
        AdapterStack([solo(net, method, seed)[1] for seed in (0, 1)], torch.device("cpu"), torch.float32)
        for method in ("lora", "symlora")
    ]
    limits = torch.tensor([0.5, 2.0])
    optimizer = StackedAdamW(stacks, [torch.ones_like(s.values) for s in stacks], torch.zeros(2), limits)
    for stack in stacks:
        stack.values.grad = torch.randn(stack.values.shape, generator=torch.Generator().manual_seed(1))
    gradients = [[stack.values.grad[row].clone() for stack in stacks] for row in range(2)]
    optimizer.step()
    for row, parts in enumerate(gradients):
        parameters = [nn.Parameter(torch.zeros_like(part)) for part in parts]
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part
        norm = torch.nn.utils.clip_grad_norm_(parameters, limits[row])
        torch.testing.assert_close(optimizer.norms[row], norm)
        for parameter, (first, _) in zip(parameters, optimizer.moments, strict=True):
            torch.testing.assert_close(first[row], 0.1 * parameter.grad)  # the mean of gradients begins at 0


def by_name(stack, adapter):
    where = dict(stack.columns())
    return [(name, where[layer_and_kind(name)]) for name in adapter.parameters]


def accumulating(stack):
    """Autograd's node that adds to the stack's values, as of the last refresh."""
    node = next(iter(stack.parts.values())).grad_fn
    while node.name() != "torch::autograd::AccumulateGrad":
        node = node.next_functions[0][0]
    return node


def test_a_refresh_lets_go_of_the_graph_before_it(net):
    """A CUDA graph cannot be recorded while a node lives that was made on another stream."""
    stack = AdapterStack([solo(net, "lora", seed)[1] for seed in (0, 1)], torch.device("cpu"), torch.float32)
    accumulating(stack).metadata["of"] = "the first"
    assert accumulating(stack).metadata == {"of": "the first"}
    stack.refresh()
    assert accumulating(stack).metadata == {}
