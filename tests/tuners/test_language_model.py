"""The tuners on a small transformers language model, through PEFT alone."""

import pytest
import torch
from helpers.adapters import CONFIGS, randomize
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from symdream.tuners import METHODS, SymmetricLinear, param_groups, set_ramp

# 32 -> 16 keys and values (grouped queries), 32 -> 64 and 64 -> 32 in the MLP: every kind of shape.
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


def language_model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    return LlamaForCausalLM(config).eval()


def train(model, method, steps=4, lr=3e-2):
    tokens = torch.randint(0, 50, (4, 12), generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.AdamW(param_groups(method, model.named_parameters(), lr))
    losses = []
    for step in range(steps):
        set_ramp(model, min(1.0, (step + 1) / 3))
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.fixture
def tokens():
    return torch.arange(10)[None]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_learns_and_reloads_to_the_same_logits(method, tmp_path, tokens):
    model = get_peft_model(language_model(), METHODS[method].config(4, 4, TARGETS, 0.0))
    losses = train(model, method, steps=12, lr=5e-3)
    assert losses[-1] < losses[3] < losses[0] + 0.05
    logits = model(tokens).logits
    assert not torch.allclose(logits, language_model()(tokens).logits, atol=1e-3)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(language_model(), tmp_path)(tokens).logits, logits)


@pytest.mark.parametrize("method", CONFIGS)
def test_saved_tensors_are_bit_equal_to_the_trained_ones(method, tmp_path):
    model = get_peft_model(language_model(), CONFIGS[method](r=4, target_modules=TARGETS))
    train(model, method)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    trained = {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)
    loaded = PeftModel.from_pretrained(language_model(), tmp_path, is_trainable=True)
    again = {n.replace(".default", ""): p for n, p in loaded.named_parameters() if p.requires_grad}
    assert all(torch.equal(again[name], trained[name]) for name in trained)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_model_trains_and_reloads_with_float32_adapters(method, dtype, tmp_path, tokens):
    model = get_peft_model(language_model().to(dtype), CONFIGS[method](r=4, target_modules=TARGETS))
    losses = train(model, method, lr=1e-2)
    assert losses[-1] < losses[0]
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    model.save_pretrained(tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "adapter_model.safetensors").values()} == {torch.float32}
    loaded = PeftModel.from_pretrained(language_model().to(dtype), tmp_path)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("method", CONFIGS)
def test_merging_disabling_and_unloading(method, tokens):
    base = language_model()(tokens).logits
    model = get_peft_model(language_model(), CONFIGS[method](r=4, target_modules=TARGETS))
    randomize(model)
    adapted = model(tokens).logits
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, base)
    assert torch.equal(model(tokens).logits, adapted)
    model.merge_adapter(safe_merge=True)
    torch.testing.assert_close(model(tokens).logits, adapted, rtol=1e-4, atol=1e-4)
    model.unmerge_adapter()
    torch.testing.assert_close(model(tokens).logits, adapted, rtol=1e-4, atol=1e-4)
    merged = model.merge_and_unload(safe_merge=True)
    assert type(merged) is LlamaForCausalLM
    assert not any("lora" in name for name, _ in merged.named_modules())
    torch.testing.assert_close(merged(tokens).logits, adapted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", CONFIGS)
def test_unload_gives_the_base_back(method, tokens):
    model = get_peft_model(language_model(), CONFIGS[method](r=4, target_modules=TARGETS))
    randomize(model)
    assert torch.equal(model.unload()(tokens).logits, language_model()(tokens).logits)


@pytest.mark.parametrize("method", CONFIGS)
def test_adapters_are_added_switched_and_deleted(method, tokens):
    model = get_peft_model(language_model(), CONFIGS[method](r=4, target_modules=["q_proj", "k_proj"]))
    model.add_adapter("second", CONFIGS[method](r=2, target_modules=["q_proj", "down_proj"]))
    randomize(model)
    first = model(tokens).logits
    assert not any("second" in n for n, p in model.named_parameters() if p.requires_grad)
    model.set_adapter("second")
    second = model(tokens).logits
    assert not torch.allclose(first, second)
    assert all("second" in n for n, p in model.named_parameters() if p.requires_grad)
    model.base_model.set_adapter(["default", "second"])
    both = model(tokens).logits
    assert not torch.allclose(both, second) and not torch.allclose(both, first)
    model.set_adapter("default")
    assert torch.equal(model(tokens).logits, first)
    model.delete_adapter("second")
    assert torch.equal(model(tokens).logits, first)
    assert not any("second" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("method", CONFIGS)
def test_all_linear_and_the_default_targets_of_a_known_model_work(method):
    everything = get_peft_model(language_model(), CONFIGS[method](r=2, target_modules="all-linear"))
    known = get_peft_model(language_model(), CONFIGS[method](r=2))
    count = lambda model: sum(f"{method}_A" in n for n, p in model.named_parameters())
    assert count(everything) == 14  # 7 a block; the head is left alone
    assert count(known) == 4  # PEFT's choice for Llama: q_proj, v_proj


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("targets", ["all-linear", None])
def test_the_layers_of_a_gpt2_are_those_that_lora_takes(method, targets, tmp_path, tokens):
    def gpt2():
        torch.manual_seed(0)
        return GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=32, n_embd=32, n_layer=2, n_head=4)).eval()

    def adapted(model):
        return {name for name, module in model.named_modules() if hasattr(module, "base_layer")}

    model = get_peft_model(gpt2(), CONFIGS[method](r=4, target_modules=targets))
    assert adapted(model) == adapted(
        get_peft_model(gpt2(), LoraConfig(r=4, target_modules=targets, fan_in_fan_out=True))
    )
    randomize(model)
    logits = model(tokens).logits
    assert not torch.allclose(logits, gpt2()(tokens).logits, atol=1e-3)
    model.save_pretrained(tmp_path)
    assert torch.equal(PeftModel.from_pretrained(gpt2(), tmp_path)(tokens).logits, logits)
    assert torch.allclose(model.merge_and_unload()(tokens).logits, logits, atol=1e-5)


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("targets", [["q_proj"], r".*q_proj.*"])
def test_a_model_that_has_lora_takes_a_symmetric_adapter_on_the_same_layer(method, targets, tokens):
    model = language_model()
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False), "lora")
    alone = model(tokens).logits
    model.add_adapter(CONFIGS[method](r=4, target_modules=targets), "symmetric")
    layers = {name for name, module in model.named_modules() if isinstance(module, SymmetricLinear)}
    assert layers == {f"model.layers.{i}.self_attn.q_proj" for i in range(2)}
    model.set_adapter("lora")
    assert torch.equal(model(tokens).logits, alone)
    randomize(model)
    model.set_adapter("symmetric")
    assert not torch.allclose(model(tokens).logits, alone, atol=1e-3)


@pytest.mark.parametrize("method", CONFIGS)
def test_transformers_own_adapter_calls_work(method, tmp_path, tokens):
    model = language_model()
    model.add_adapter(CONFIGS[method](r=4, target_modules=TARGETS), "mine")
    randomize(model)
    adapted = model(tokens).logits
    model.disable_adapters()
    assert torch.equal(model(tokens).logits, language_model()(tokens).logits)
    model.enable_adapters()
    assert torch.equal(model(tokens).logits, adapted)
    model.save_pretrained(tmp_path)
    loaded = language_model()
    loaded.load_adapter(str(tmp_path), "mine")
    assert torch.equal(loaded(tokens).logits, adapted)


def test_peft_converts_an_adapter_to_lora(tokens):
    from peft import convert_to_lora

    model = get_peft_model(language_model(), CONFIGS["symlora"](r=4, target_modules=["q_proj"]))
    randomize(model)
    config, state = convert_to_lora(model, rank=4)
    lora = get_peft_model(language_model(), config)
    lora.load_state_dict({n.replace(".weight", ".default.weight"): t for n, t in state.items()}, strict=False)
    torch.testing.assert_close(lora(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
