"""What cannot be adapted is refused by name, with a way out, before anything is replaced."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from helpers.adapters import CONFIGS, randomize
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, inject_adapter_in_model
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    FalconMambaConfig,
    Mamba2Config,
    MambaConfig,
)

from symdream.errors import RequestError
from symdream.tuners import SingLoraConfig, SymmetricLinear
from symdream.tuners.model import READ_BY_MAMBAS, why_not, why_not_there


class Packed(nn.Parameter):
    """A parameter of a class of its own, as quantisation libraries make them."""


def packed_linear():
    layer = nn.Linear(4, 4)
    layer.weight = Packed(layer.weight.data)
    return layer


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fine = nn.Linear(8, 8)
        self.thin = nn.Linear(8, 3)
        self.conv = nn.Conv2d(3, 3, 1)
        self.embedding = nn.Embedding(5, 8)
        self.attention = nn.MultiheadAttention(8, 2)
        self.packed = packed_linear()
        self.low = nn.Linear(8, 8).to(torch.float8_e4m3fn)
        self.norm = nn.LayerNorm(8)


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("thin", r"8 -> 3, rank 4 is larger; take r <= 3"),
        ("conv", r"Conv2d; only nn\.Linear and GPT-2's Conv1D.*exclude_modules"),
        ("embedding", r"Embedding; only nn\.Linear"),
        ("attention", r"fused MultiheadAttention.*separate"),
        ("out_proj", r"attention\.out_proj +belongs to a fused MultiheadAttention"),
        ("packed", r"quantised or packed Linear \(Packed.*unquantised"),
        ("low", r"quantised or packed Linear \(Parameter, torch.float8_e4m3fn\)"),
        ("norm", r"LayerNorm"),
    ],
)
def test_a_layer_that_cannot_be_adapted_is_named_with_what_to_do(config, target, reason):
    with pytest.raises(ValueError, match=f"(?s){target}.*{reason}" if target != "out_proj" else reason):
        get_peft_model(Mixed(), config(r=4, target_modules=[target]))


def test_every_refused_layer_is_told_at_once_and_nothing_was_replaced():
    model = Mixed()
    with pytest.raises(RequestError) as caught:
        get_peft_model(model, SingLoraConfig(r=4, target_modules=["fine", "thin", "conv", "embedding"]))
    assert [p.key for p in caught.value.problems] == ["thin", "conv", "embedding"]
    assert not any(isinstance(module, SymmetricLinear) for module in model.modules())
    assert model.fine.weight.requires_grad


def with_thin_layers():
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 3), nn.Linear(3, 8), nn.Linear(8, 8))


def by_all_linear(model, config):
    get_peft_model(model, config(r=4, target_modules="all-linear"))


def by_saved_keys(model, config):
    saved = get_peft_model(with_thin_layers(), config(r=2, target_modules="all-linear"))
    keys = get_peft_model_state_dict(saved.base_model.model)
    inject_adapter_in_model(config(r=4, target_modules=["0"]), model, state_dict=keys)


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize("ask", [by_all_linear, by_saved_keys])
def test_layers_that_the_configuration_does_not_name_are_refused_as_early(config, ask):
    model = with_thin_layers()
    with pytest.raises(RequestError) as caught:
        ask(model, config)
    assert [p.key for p in caught.value.problems] == ["1", "2"]
    assert not any(isinstance(module, SymmetricLinear) for module in model.modules())
    # What the message advises works on this very model.
    model = get_peft_model(model, config(r=2, target_modules="all-linear"))
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize("compiled", ["the model", "the one that was saved"])
def test_saved_keys_name_the_layers_of_a_compiled_model_too(config, compiled):
    saved = get_peft_model(with_thin_layers(), config(r=2, target_modules="all-linear"))
    keys = get_peft_model_state_dict(saved.base_model.model)
    model = with_thin_layers()
    if compiled == "the model":
        model = torch.compile(model)
    else:
        keys = {f"_orig_mod.{key}": tensor for key, tensor in keys.items()}
    with pytest.raises(RequestError) as caught:
        inject_adapter_in_model(config(r=4, target_modules=["0"]), model, state_dict=keys)
    assert [p.key.removeprefix("_orig_mod.") for p in caught.value.problems] == ["1", "2"]
    assert not any(isinstance(module, SymmetricLinear) for module in model.modules())


@pytest.mark.filterwarnings("ignore:While injecting")
def test_saved_keys_alone_decide_which_layers_are_looked_at():
    model = Mixed()
    keys = {"fine.singlora_A": torch.zeros(4, 8)}
    inject_adapter_in_model(SingLoraConfig(r=4, target_modules=["fine", "thin"]), model, state_dict=keys)
    assert [n for n, m in model.named_modules() if isinstance(m, SymmetricLinear)] == ["fine"]


def encoder():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


@pytest.fixture
def without_fast_path():
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("config", CONFIGS.values())
def test_layers_that_a_fused_encoder_reads_are_refused(config):
    with pytest.raises(RequestError, match="set_fastpath_enabled") as caught:
        get_peft_model(encoder(), config(r=4, target_modules=["linear1", "linear2"]))
    assert [p.key for p in caught.value.problems] == [f"layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)]


@pytest.mark.parametrize("config", CONFIGS.values())
def test_without_its_fast_path_an_encoder_answers_in_eval_as_in_training_and_merged(config, without_fast_path):
    model = get_peft_model(encoder(), config(r=4, target_modules=["linear1", "linear2"]))
    randomize(model)
    x = torch.randn(2, 5, 16)
    trained = model.train()(x)
    assert not torch.allclose(trained, encoder()(x), atol=1e-2)
    torch.testing.assert_close(model.eval()(x), trained)
    torch.testing.assert_close(model.merge_and_unload()(x), trained)


def state_space_model(kind):
    torch.manual_seed(0)
    if kind == "mamba2":
        return AutoModelForCausalLM.from_config(
            Mamba2Config(vocab_size=20, hidden_size=16, num_hidden_layers=1, head_dim=8, num_heads=4, n_groups=1)
        )
    config = {"mamba": MambaConfig, "falcon_mamba": FalconMambaConfig}[kind]
    return AutoModelForCausalLM.from_config(config(vocab_size=20, hidden_size=16, num_hidden_layers=1, state_size=4))


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize("kind", ["mamba", "mamba2", "falcon_mamba"])
def test_layers_that_a_mambas_kernels_read_are_refused(kind, config):
    names = ["in_proj", "out_proj"] if kind == "mamba2" else ["in_proj", "out_proj", "dt_proj"]
    model = state_space_model(kind)
    with pytest.raises(RequestError, match=f"{kind} model, whose kernels read") as caught:
        get_peft_model(model, config(r=1, target_modules=names))
    assert {p.key.rpartition(".")[2] for p in caught.value.problems} == set(names) - {"in_proj"}
    get_peft_model(model, config(r=1, target_modules=["in_proj"]))


def test_what_peft_refuses_for_lora_in_a_mamba_is_refused_here():
    parts = Mixed()
    parts.config = SimpleNamespace()
    refused = set()
    for parts.config.model_type in (*READ_BY_MAMBAS["out_proj"], "llama", "jamba"):
        for name in ("out_proj", "in_proj", "x_proj"):
            try:
                _check_lora_target_modules_mamba(LoraConfig(), parts, name)
            except ValueError:
                refused.add(parts.config.model_type)
                assert name == "out_proj" and why_not_there(parts, name) is not None
            if name != "out_proj":
                assert why_not_there(parts, name) is None
    assert refused == {"mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h"}
    parts.config.model_type = "jamba"
    assert why_not_there(parts, "out_proj") is None and why_not_there(parts, "dt_proj") is not None


def test_no_out_proj_is_adapted_whose_weight_transformers_hands_to_a_kernel():
    """Every model of transformers whose code says so, beside those that PEFT refuses."""
    files = (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")
    handed = {f.parent.name for f in files if "outproj_weight=self.out_proj.weight" in f.read_text(encoding="utf-8")}
    parts = Mixed()
    parts.config = SimpleNamespace()
    for parts.config.model_type in sorted(handed):
        assert why_not_there(parts, "out_proj") is not None, parts.config.model_type
    assert {"bamba", "zamba2"} < handed


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize(
    ("model", "head", "task"),
    [
        (BertForSequenceClassification, "classifier", "SEQ_CLS"),
        (BertForTokenClassification, "classifier", "TOKEN_CLS"),
        (BertForQuestionAnswering, "qa_outputs", "QUESTION_ANS"),
    ],
)
def test_a_tasks_head_is_trained_and_saved_beside_the_adapter(tmp_path, config, model, head, task):
    shared = config(task_type=task, r=2, target_modules=["query"])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for number in range(2):  # the second time with the same configuration
        adapted = get_peft_model(model(BertConfig(vocab_size=20, **sizes)), shared)
        trained = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
        assert any(head in name for name in trained)
        adapted.save_pretrained(tmp_path / str(number))
        saved = load_file(tmp_path / str(number) / "adapter_model.safetensors")
        assert f"base_model.model.{head}.weight" in saved
        assert head in PeftConfig.from_pretrained(tmp_path / str(number)).modules_to_save


def test_a_configuration_that_was_refused_is_as_it_was():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2), nn.Linear(2, 8))
    config = SingLoraConfig(r=4, target_modules="all-linear")
    with pytest.raises(RequestError):
        inject_adapter_in_model(config, model)
    assert config.target_modules == "all-linear"


def test_excluding_the_refused_layer_is_a_way_out():
    config = SingLoraConfig(r=4, target_modules=["fine", "conv"], exclude_modules=["conv"])
    model = get_peft_model(Mixed(), config)
    assert [n for n, m in model.named_modules() if isinstance(m, SymmetricLinear)] == ["base_model.model.fine"]


def test_a_second_adapter_with_too_large_a_rank_is_refused_too():
    model = get_peft_model(Mixed(), SingLoraConfig(r=2, target_modules=["thin"]))
    with pytest.raises(ValueError, match=r"thin.*rank 4 is larger"):
        model.add_adapter("second", SingLoraConfig(r=4, target_modules=["thin"]))
    assert list(model.base_model.model.thin.r) == ["default"]


@pytest.mark.parametrize("config", CONFIGS.values())
@pytest.mark.parametrize("name", ["train", "half", "keys", "_parameters", "a.b", ""])
def test_a_name_that_no_parameter_can_have_is_refused_and_the_model_goes_on(config, name):
    with pytest.raises(ValueError, match="cannot be called"):
        get_peft_model(Mixed(), config(r=4, target_modules=["fine"]), adapter_name=name)
    model = get_peft_model(Mixed(), config(r=4, target_modules=["fine"]))
    before = model.state_dict().keys()
    with pytest.raises(ValueError, match=f"cannot be called {name!r}.*choose another name"):
        model.add_adapter(name, config(r=4, target_modules=["fine"]))
    assert model.state_dict().keys() == before
    model.add_adapter("fine", config(r=4, target_modules=["fine"]))
    model.set_adapter("default")
    assert list(model.peft_config) == list(model.base_model.model.fine.r) == ["default", "fine"]


def test_every_plain_float_linear_layer_is_accepted():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert why_not(nn.Linear(6, 4, dtype=dtype), r=4) is None


def test_only_the_adapter_is_trainable():
    model = get_peft_model(Mixed(), SingLoraConfig(r=4, target_modules=["fine"]))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["base_model.model.fine.singlora_A.default"]
