"""u: 1 when fresh, set for all layers by one fill, saved and restored, one value per adapter."""

import copy

import pytest
import torch
from helpers.adapters import CONFIGS, OneLinear, randomize
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from symdream.tuners import SingLoraConfig, SymLoraConfig, find_ramps, set_ramp


def stack(depth=4):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(depth)))


def config(**options):
    return SingLoraConfig(r=2, target_modules=["0", "1", "2", "3"], **options)


class Calls(TorchDispatchMode):
    """Counts the operations that reach the device."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_a_fresh_adapter_has_u_one():
    model = get_peft_model(stack(), config())
    assert [ramp.value for ramp in find_ramps(model)] == [1.0]
    assert find_ramps(model)[0].on(torch.device("cpu")) == 1.0


@pytest.mark.parametrize("wrap", [get_peft_model, lambda model, config: inject_adapter_in_model(config, model)])
def test_one_fill_sets_every_layer_of_a_wrapped_or_a_bare_model(wrap):
    model = wrap(stack(), config())
    x = torch.randn(2, 8)
    model(x)
    with Calls() as calls:
        set_ramp(model, 0.0)
    assert calls.names == ["fill_"]
    assert torch.equal(model(x), stack()(x))


def test_forward_never_reads_u_back_to_the_host():
    model = get_peft_model(stack(), config())
    with Calls() as calls:
        model(torch.randn(2, 8))
    assert not {"_local_scalar_dense", "item", "is_nonzero", "fill_"} & set(calls.names)


def test_the_address_of_u_stays_so_that_a_captured_graph_sees_it():
    model = get_peft_model(stack(), config())
    u = find_ramps(model)[0].on(torch.device("cpu"))
    model.to(torch.float64).to("cpu")
    model(torch.randn(2, 8, dtype=torch.float64))
    set_ramp(model, 0.25)
    assert find_ramps(model)[0].on(torch.device("cpu")) is u
    assert u == 0.25 and u.dtype == torch.float32


def test_u_is_not_trained_and_no_tensor_of_the_state_dict():
    model = get_peft_model(stack(), config())
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(names) == 4 and all("singlora_A" in n for n in names)
    assert sum("singlora" in name for name in model.state_dict()) == 4


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_u_is_saved_with_the_adapter_and_restored(tmp_path, low_cpu_mem_usage):
    model = get_peft_model(stack(), config())
    set_ramp(model, 0.3)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(stack(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage)
    x = torch.randn(2, 8)
    assert torch.equal(loaded(x), model(x))
    assert not torch.equal(loaded(x), stack()(x))
    assert loaded.peft_config["default"].u == 0.3


def test_weights_loaded_into_an_adapter_that_is_there_need_their_u_from_the_saved_config(tmp_path):
    saved = get_peft_model(stack(), config())
    set_ramp(saved, 0.3)
    saved.save_pretrained(tmp_path)
    model = get_peft_model(stack(), config())
    model.load_adapter(tmp_path, "default")
    assert [ramp.value for ramp in find_ramps(model)] == [1.0]  # PEFT reads no configuration here
    set_ramp(model, PeftConfig.from_pretrained(tmp_path).u)
    x = torch.randn(2, 8)
    assert torch.equal(model(x), saved(x))


def test_two_adapters_loaded_from_files_keep_each_its_own_u(tmp_path):
    for name, u in (("partial", 0.5), ("full", 1.0)):
        model = get_peft_model(stack(), config())
        set_ramp(model, u)
        model.save_pretrained(tmp_path / name)
    model = PeftModel.from_pretrained(stack(), tmp_path / "partial", adapter_name="partial")
    model.load_adapter(tmp_path / "full", "full")
    layer = model.base_model.model[0]
    assert {name: ramp.value for name, ramp in layer.ramps.items()} == {"partial": 0.5, "full": 1.0}
    # The active adapter follows the trainer, the other keeps what it was saved with.
    model.set_adapter("full")
    set_ramp(model, 0.1)
    assert {name: ramp.value for name, ramp in layer.ramps.items()} == {"partial": 0.5, "full": 0.1}
    set_ramp(model, 0.2, adapter_name="partial")
    assert {name: c.u for name, c in model.peft_config.items()} == {"partial": 0.2, "full": 0.1}
    model.base_model.set_adapter(["partial", "full"])
    set_ramp(model, 0.7)
    assert {name: ramp.value for name, ramp in layer.ramps.items()} == {"partial": 0.7, "full": 0.7}
    model.delete_adapter("partial")
    assert list(layer.ramps) == ["full"]


def test_one_config_on_two_models_gives_two_ramps():
    shared = config()
    one, two = get_peft_model(stack(), shared), get_peft_model(stack(), shared)
    randomize(one), randomize(two)
    x = torch.randn(2, 8)
    before = two(x)
    set_ramp(one, 0.0)
    assert torch.equal(two(x), before)


def test_a_config_that_serves_again_begins_with_the_u_that_it_was_given():
    shared = config()
    set_ramp(one := get_peft_model(stack(), shared), 0.01)
    again = get_peft_model(stack(), shared)
    assert [ramp.value for ramp in find_ramps(again)] == [1.0]
    assert one.peft_config["default"].u == 0.01 and again.peft_config["default"].u == 1.0
    copied = get_peft_model(stack(), copy.deepcopy(one.peft_config["default"]))
    assert [ramp.value for ramp in find_ramps(copied)] == [0.01]


def test_a_config_that_was_given_a_u_begins_with_it_again():
    shared = config(u=0.5)
    set_ramp(get_peft_model(stack(), shared), 0.01)
    assert [ramp.value for ramp in find_ramps(get_peft_model(stack(), shared))] == [0.5]


def test_what_contains_several_models_has_the_ramps_of_all_of_them():
    models = nn.ModuleList(get_peft_model(stack(), config()) for _ in range(3))
    models[1].add_adapter("second", config())
    models[1].base_model.set_adapter(["default", "second"])
    set_ramp(models, 0.3)
    assert [ramp.value for ramp in find_ramps(models)] == [0.3] * 4
    assert [{c.u for c in model.peft_config.values()} for model in models] == [{0.3}] * 3


def test_one_config_on_two_models_is_saved_with_each_ones_own_u(tmp_path):
    shared = config()
    one, two = get_peft_model(stack(), shared), get_peft_model(stack(), shared)
    two.add_adapter("second", shared)
    set_ramp(one, 0.5)
    set_ramp(two, 0.0)
    set_ramp(two, 0.2, adapter_name="second")
    for name, model in (("one", one), ("two", two)):
        model.save_pretrained(tmp_path / name)
    found = [PeftConfig.from_pretrained(tmp_path / name).u for name in ("one", "two", "two/second")]
    assert found == [0.5, 0.0, 0.2]


@pytest.mark.parametrize("kind", [SymLoraConfig, LoraConfig])
def test_set_ramp_does_nothing_on_other_models(kind):
    other = kind(r=2, target_modules=["linear"])
    x = torch.randn(2, 8)
    for model in (OneLinear(8, 8), get_peft_model(OneLinear(8, 8), other)):
        before = model(x)
        set_ramp(model, 0.0)
        assert torch.equal(model(x), before)
        assert find_ramps(model) == []


@pytest.mark.parametrize("u", [-0.1, 1.1, float("nan")])
def test_a_ramp_outside_zero_to_one_is_refused(u):
    with pytest.raises(ValueError, match="between 0 and 1"):
        set_ramp(get_peft_model(stack(), config()), u)


def test_sampling_in_inference_mode_before_training_leaves_u_trainable():
    with torch.inference_mode():
        model = get_peft_model(stack(), config())
    model = get_peft_model(stack(), config())
    with torch.inference_mode():
        for ramp in find_ramps(model):
            ramp._tensors.clear()  # as on a device that no forward has seen yet
        model(torch.randn(2, 8))
    model(torch.randn(2, 8)).sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_meta_model_that_becomes_real_has_its_u():
    with torch.device("meta"):
        model = get_peft_model(stack(), config(u=0.5))
    model.to_empty(device="cpu")
    model.load_state_dict(get_peft_model(stack(), config()).state_dict())
    truth = get_peft_model(stack(), config(u=0.5))
    truth.load_state_dict(model.state_dict())
    x = torch.randn(2, 8)
    assert torch.equal(model(x), truth(x))
    for one in (model, truth):
        set_ramp(one, 0.2)  # on both devices that it has been on
    assert torch.equal(model(x), truth(x))


@pytest.mark.parametrize("method", CONFIGS)
def test_gradient_checkpointing_gives_the_same_gradients(method):
    from torch.utils.checkpoint import checkpoint

    model = get_peft_model(stack(), CONFIGS[method](r=2, target_modules=["0", "1", "2", "3"]))
    randomize(model)
    set_ramp(model, 0.5)
    x = torch.randn(2, 8)
    gradients = []
    for run in (model, lambda x: checkpoint(model, x, use_reentrant=False)):
        model.zero_grad()
        run(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
