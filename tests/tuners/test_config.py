"""Options are checked early, all problems at once, and survive a save."""

import json

import pytest
import torch
from helpers.adapters import CONFIGS, OneLinear
from peft import PeftConfig, get_peft_model
from torch import nn

from symdream.errors import RequestError
from symdream.tuners import SingLoraConfig, SymLoraConfig

BAD = {
    "r": [0, -3, 2.5, True, "8"],
    "alpha": [0, -1.0, float("nan"), float("inf"), "8"],
    "dropout": [-0.1, 1.0, 3],
    "init_weights": ["zeros", True],
    "target_modules": [[]],
}


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize(("option", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_a_bad_option_is_named(config, option, value):
    with pytest.raises(ValueError, match=f"(?s)1 problem in {config.__name__}.*{option}"):
        config(**{"target_modules": ["linear"], option: value})


@pytest.mark.parametrize("u", [-0.1, 1.5, float("nan"), None])
def test_a_ramp_outside_its_range_is_refused(u):
    with pytest.raises(ValueError, match="between 0 and 1"):
        SingLoraConfig(u=u)


def test_all_problems_are_told_at_once_as_a_request_error():
    with pytest.raises(RequestError) as caught:
        SymLoraConfig(r=0, alpha=-1, dropout=2, target_modules=".*q", layers_to_transform=[1])
    assert {p.key for p in caught.value.problems} == {"r = 0", "alpha = -1", "dropout = 2", "layers_to_transform"}


def test_a_list_of_blocks_that_nothing_would_be_counted_in_is_refused():
    with pytest.raises(RequestError, match="layers_pattern +has no effect without layers_to_transform"):
        SingLoraConfig(target_modules=["q"], layers_pattern="blocks")


def test_an_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="rank"):
        SymLoraConfig(rank=8)


def test_alpha_defaults_to_the_rank():
    assert SingLoraConfig(r=5).alpha == 5.0
    assert SingLoraConfig(r=5, alpha=2).alpha == 2


@pytest.mark.parametrize("method", CONFIGS)
def test_config_survives_saving(method, tmp_path):
    options = {"r": 3, "alpha": 1.5, "target_modules": ["a", "b"], "exclude_modules": ["c"], "dropout": 0.25}
    options |= {"layers_to_transform": [0, 2], "layers_pattern": "blocks", "modules_to_save": ["head"]}
    options |= {"init_weights": "small"} | ({"u": 0.5} if method == "singlora" else {})
    config = CONFIGS[method](**options)
    config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == method.upper()
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is CONFIGS[method]
    assert {k: v for k, v in loaded.to_dict().items() if k in options} == {
        k: v for k, v in config.to_dict().items() if k in options
    }
    assert isinstance(loaded.target_modules, set)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(6, 6), "k": nn.Linear(6, 6)}) for _ in range(3))
        self.head = nn.Linear(6, 2)


@pytest.mark.parametrize(
    ("options", "adapted"),
    [
        ({"target_modules": ["q"]}, {"blocks.0.q", "blocks.1.q", "blocks.2.q"}),
        (
            {"target_modules": ["q", "k"], "exclude_modules": ["blocks.0.k", "blocks.1.k", "blocks.2.k", "blocks.2.q"]},
            {"blocks.0.q", "blocks.1.q"},
        ),
        ({"target_modules": ["q"], "layers_to_transform": [1], "layers_pattern": ["blocks"]}, {"blocks.1.q"}),
        ({"target_modules": ["k"], "layers_to_transform": 2, "layers_pattern": "blocks"}, {"blocks.2.k"}),
        ({"target_modules": r"blocks\.[01]\.[qk]"}, {"blocks.0.q", "blocks.0.k", "blocks.1.q", "blocks.1.k"}),
    ],
)
def test_options_choose_the_layers(options, adapted):
    model = get_peft_model(Blocks(), SingLoraConfig(r=2, **options))
    layers = {n.removeprefix("base_model.model.") for n, m in model.named_modules() if hasattr(m, "singlora_A")}
    assert layers == adapted


def test_modules_to_save_are_trained_in_full_and_saved(tmp_path):
    from safetensors.torch import load_file

    model = get_peft_model(Blocks(), SymLoraConfig(r=2, target_modules=["q"], modules_to_save=["head"]))
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum("head" in name for name in trained) == 2
    model.save_pretrained(tmp_path)
    assert "base_model.model.head.weight" in load_file(tmp_path / "adapter_model.safetensors")


def test_no_target_and_no_known_model_is_an_error():
    with pytest.raises(ValueError, match="target_modules"):
        get_peft_model(OneLinear(4, 4), SingLoraConfig(r=2))


def test_a_target_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match="not found"):
        get_peft_model(OneLinear(4, 4), SingLoraConfig(r=2, target_modules=["nowhere"]))


@pytest.mark.parametrize("method", CONFIGS)
def test_the_same_seed_gives_the_same_start(method):
    def start(seed):
        torch.manual_seed(seed)
        model = get_peft_model(OneLinear(8, 8), CONFIGS[method](r=2, target_modules=["linear"]))
        return model.base_model.model.linear.get_parameter(f"{method}_A.default")

    assert torch.equal(start(3), start(3))
    assert not torch.equal(start(3), start(4))
