"""PEFT's adapter_names: every row of a batch through an adapter of its own, against each row alone."""

from contextlib import nullcontext

import pytest
import torch
from helpers.adapters import CONFIGS, randomize
from peft import LoraConfig, get_peft_model
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, T5Config, T5ForConditionalGeneration

NAMES = ["second", "__base__", "default", "second"]


def language_model(**more):
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, pad_token_id=0, **more)).eval()


def t5():
    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0)).eval()


def adapted(method, base=None, targets=(["q_proj", "down_proj"], ["q_proj", "o_proj"])):
    """Two adapters of different rank, layers and weight."""
    model = get_peft_model(base or language_model(), CONFIGS[method](r=4, target_modules=targets[0]))
    model.add_adapter("second", CONFIGS[method](r=2, target_modules=targets[1]))
    randomize(model)
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("second", -0.7)
    return model.eval()


@pytest.fixture
def tokens():
    return torch.randint(1, 50, (len(NAMES), 7), generator=torch.Generator().manual_seed(1))


def each_alone(model, names, tokens, call):
    """`call` of each row by itself, its adapter the active one; afterwards the first adapter is."""
    before = model.active_adapter
    found = []
    for name, row in zip(names, tokens.split(1), strict=True):
        with model.disable_adapter() if name == "__base__" else nullcontext(model.set_adapter(name)):
            found.append(call(row))
    model.set_adapter(before)
    return torch.cat(found)


@pytest.mark.parametrize("method", CONFIGS)
def test_every_row_is_what_its_adapter_alone_gives(method, tokens):
    model = adapted(method)
    found = model(tokens, adapter_names=NAMES).logits
    expected = each_alone(model, NAMES, tokens, lambda row: model(row).logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, model(tokens).logits, atol=1e-3)  # and without names all rows are the active one's
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("config", [LoraConfig, *CONFIGS.values()])
def test_names_bring_back_no_adapter_that_is_switched_off(config, tokens):
    model = get_peft_model(language_model(), config(r=4, target_modules=["q_proj"])).eval()
    randomize(model)
    model.base_model.disable_adapter_layers()
    base = language_model()(tokens).logits
    assert torch.equal(model(tokens, adapter_names=["default"] * len(tokens)).logits, base)
    model.base_model.enable_adapter_layers()
    assert not torch.equal(model(tokens, adapter_names=["default"] * len(tokens)).logits, base)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("base", [language_model, t5])
@pytest.mark.parametrize("settings_from", ["the call", "a config", "the model"])
def test_generation_with_beams(method, base, settings_from, tokens):
    targets = (["q", "wo"], ["q", "o"]) if base is t5 else (["q_proj", "down_proj"], ["q_proj", "o_proj"])
    model = adapted(method, base(), targets)
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5, "min_new_tokens": 5}
    if settings_from != "the call":
        config = GenerationConfig(**settings, pad_token_id=0, decoder_start_token_id=0)
        settings = {"generation_config": config} if settings_from == "a config" else {}
        if settings_from == "the model":
            model.get_base_model().generation_config = config

    def generate(rows, **more):
        return model.generate(input_ids=rows, attention_mask=torch.ones_like(rows), **settings, **more)

    assert torch.equal(generate(tokens, adapter_names=NAMES), each_alone(model, NAMES, tokens, generate))


def test_a_layer_that_is_trained_in_full_follows(tokens):
    model = get_peft_model(language_model(), CONFIGS["symlora"](r=4, target_modules=["q_proj"]))
    for name in ("one", "two"):
        model.add_adapter(name, CONFIGS["symlora"](r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]))
    randomize(model)
    for name, parameter in model.named_parameters():
        if "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.eval()
    names = ["one", "two", "__base__", "two"]
    found = model(tokens, adapter_names=names).logits
    expected = each_alone(model, names, tokens, lambda row: model(row).logits)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["default", "thrid", "default", "x"], "is called thrid, x; it has default, second"),
        (["default"], "has 1 names, the batch 4 rows"),
        (["default"] * 2, "has 2 names, the batch 4 rows"),
        ("default", "must be a list"),
    ],
)
def test_names_that_do_not_fit_are_refused(names, told, tokens):
    model = adapted("singlora")
    with pytest.raises(ValueError, match=told):
        model(tokens, adapter_names=names)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_training_and_merged_adapters_are_refused(tokens):
    model = adapted("singlora")
    with pytest.raises(ValueError, match="call eval"):
        model.train()(tokens, adapter_names=NAMES)
    model.eval().merge_adapter()
    with pytest.raises(ValueError, match="call unmerge_adapter"):
        model(tokens, adapter_names=NAMES)
