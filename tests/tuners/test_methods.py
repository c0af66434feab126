"""The table of methods: configs, optimizer groups, targets, and the parameter counts of the design."""

import re
from pathlib import Path

import pytest
import torch
from helpers.sd_configs import CLIP_L_TEXT, SD15_UNET, make_text_encoder, make_unet
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from symdream.errors import RequestError
from symdream.tuners import METHODS, count_parameters, get_method, linear_shapes, param_groups, target_modules

MODELS = {"unet": (make_unet, SD15_UNET), "text_encoder": (make_text_encoder, CLIP_L_TEXT)}

# DESIGN: SD 1.5's UNet and CLIP-L at r = 8, exact.
COUNTS = [
    ("unet", "qkvo", "lora", 8, 1_594_368),
    ("unet", "qkvo", "lora+", 8, 1_594_368),
    ("unet", "qkvo", "dora", 8, 1_694_208),
    ("unet", "qkvo", "singlora", 8, 844_800),
    ("unet", "qkvo", "singlora", 16, 1_689_600),
    ("unet", "qkvo", "symlora", 8, 845_824),
    ("unet", "qk", "lora", 8, 797_184),
    ("unet", "qk", "dora", 8, 847_104),
    ("unet", "qk", "singlora", 8, 422_400),
    ("unet", "qk", "symlora", 8, 422_912),
    ("text_encoder", "qkvo", "lora", 8, 589_824),
    ("text_encoder", "qkvo", "singlora", 8, 294_912),
]


def adapted(method, component="unet", targets="qkvo", rank=4):
    model = MODELS[component][0]()
    model.add_adapter(METHODS[method].config(rank, rank, target_modules(targets, component), 0.0))
    return model


@pytest.fixture(scope="module")
def meta_models():
    with torch.device("meta"):
        return {component: make(config) for component, (make, config) in MODELS.items()}


@pytest.mark.parametrize(("component", "targets", "method", "rank", "count"), COUNTS)
def test_parameter_counts_of_stable_diffusion_1_5(meta_models, component, targets, method, rank, count):
    shapes = linear_shapes(meta_models[component], target_modules(targets, component))
    assert count_parameters(method, shapes, rank) == count


@pytest.mark.parametrize(("component", "targets", "method", "rank", "count"), COUNTS[3:6] + COUNTS[-1:])
def test_attached_adapters_have_the_counted_parameters(component, targets, method, rank, count):
    make, config = MODELS[component]
    with torch.device("meta"):
        model = make(config)
        model.add_adapter(METHODS[method].config(rank, rank, target_modules(targets, component), 0.0))
    model.requires_grad_(False)
    model.set_adapter("default")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize("method", METHODS)
def test_the_count_from_shapes_is_what_a_real_adapter_trains(method):
    for component in MODELS:
        model = adapted(method, component)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        targets = target_modules("qkvo", component)
        assert count_parameters(method, linear_shapes(MODELS[component][0](), targets), 4) == trained
        assert count_parameters(method, linear_shapes(model, targets), 4) == trained  # adapted already


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_forward_and_backward_on_the_meta_device(method):
    with torch.device("meta"):
        model = torch.nn.Sequential(torch.nn.Linear(6, 9), torch.nn.Linear(9, 6))
        model = get_peft_model(model, METHODS[method].config(2, 2, ["0", "1"], 0.0))
        y = model(torch.zeros(3, 6))
        y.sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert y.shape == (3, 6) and y.is_meta
    assert trained and all(p.grad.shape == p.shape and p.grad.is_meta for p in trained)


def test_singlora_trains_at_most_55_percent_of_loras_parameters(meta_models):
    for component in MODELS:
        shapes = linear_shapes(meta_models[component], target_modules("qkvo", component))
        assert count_parameters("singlora", shapes, 8) <= 0.55 * count_parameters("lora", shapes, 8)


@pytest.mark.parametrize("method", METHODS)
def test_groups_hold_every_trainable_parameter_once(method):
    model = adapted(method)
    groups = param_groups(method, model.named_parameters(), 1e-3, name="unet")
    held = [id(p) for group in groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters() if p.requires_grad}
    assert groups[0]["name"] == "unet" and groups[0]["lr"] == 1e-3
    torch.optim.AdamW(groups)


def test_lora_plus_gives_b_sixteen_times_the_rate_of_a():
    model = adapted("lora+")
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {g["name"]: g for g in param_groups("lora+", model.named_parameters(), 1e-4, name="unet")}
    assert groups["unet"]["lr"] == pytest.approx(1e-4)
    assert groups["unet.lora_B"]["lr"] == pytest.approx(16e-4)
    assert all("lora_A" in names[id(p)] for p in groups["unet"]["params"])
    assert all("lora_B" in names[id(p)] for p in groups["unet.lora_B"]["params"])
    groups = param_groups("lora+", model.named_parameters(), 1e-4, ratios={"lora_B": 4})
    assert [g["lr"] for g in groups] == pytest.approx([1e-4, 4e-4])


def test_plain_lora_and_dora_have_one_rate():
    for method in ("lora", "dora"):
        assert len(param_groups(method, adapted(method).named_parameters(), 1e-4)) == 1


def test_lambda_has_a_group_of_its_own():
    model = adapted("symlora")
    groups = param_groups("symlora", model.named_parameters(), 1e-3, name="unet", ratios={"symlora_lambda": 3})
    assert [(g["name"], g["lr"]) for g in groups] == [("unet", 1e-3), ("unet.symlora_lambda", pytest.approx(3e-3))]
    assert {p.ndim for p in groups[0]["params"]} == {2}
    assert {p.ndim for p in groups[1]["params"]} == {1}


def test_a_ratio_without_parameters_is_refused():
    with pytest.raises(RequestError, match="SingLoRA has no lora_B"):
        param_groups("singlora", [], 1e-3, ratios={"lora_B": 16})


@pytest.mark.parametrize("method", METHODS)
def test_config_carries_rank_alpha_targets_and_dropout(method):
    config = METHODS[method].config(6, 3.0, ["to_q", "to_k"], 0.25)
    assert config.r == 6 and config.target_modules == {"to_q", "to_k"}
    alpha, dropout = ("lora_alpha", "lora_dropout") if isinstance(config, LoraConfig) else ("alpha", "dropout")
    assert getattr(config, alpha) == 3.0 and getattr(config, dropout) == 0.25
    assert getattr(config, "use_dora", False) is (method == "dora")


@pytest.mark.parametrize("method", ["singlora", "symlora"])
def test_the_start_that_is_asked_for_is_in_the_config(method):
    assert METHODS[method].config(6, 3.0, ["to_q"], 0.0, init="small").init_weights == "small"
    assert METHODS[method].config(6, 3.0, ["to_q"], 0.0).init_weights == "kaiming"


def test_table_is_complete_and_keyed_by_name():
    assert list(METHODS) == ["lora", "lora+", "dora", "singlora", "symlora"]
    for name, method in METHODS.items():
        assert method.name == name and get_method(name) is method
        assert min(method.lr, method.text_encoder_lr, method.real_lr, method.real_text_encoder_lr) > 0
    assert [m.name for m in METHODS.values() if m.has_ramp] == ["singlora"]


@pytest.fixture(scope="module")
def tuning():
    """docs/tuning.md by its headings."""
    text = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text(encoding="utf-8")
    return dict(section.split("\n", 1) for section in text.split("\n## ")[1:])


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_the_default_rates_are_those_that_the_page_on_tuning_tells(tuning, method):
    label = re.escape(method.label)
    tuned = re.search(rf"^\| {label} r8, ([^ ]+) \|", tuning["Five methods, tuned, two training seeds"], re.M)[1]
    assert method.lr == method.text_encoder_lr == float(tuned)
    real = re.search(rf"\b{label}(?: has)?\s(\d[^ ]*e-\d)", tuning["On real bases"])[1]
    assert method.real_lr == method.real_text_encoder_lr == float(real)


def test_targets_are_the_attention_projections(meta_models):
    assert len(linear_shapes(meta_models["unet"], target_modules("qk", "unet"))) == 64
    shapes = linear_shapes(meta_models["unet"], target_modules("qkvo", "unet"))
    assert len(shapes) == 128
    assert sum(n_in != n_out for n_in, n_out in shapes) == 32  # attn2's k and v
    assert len(linear_shapes(meta_models["text_encoder"], target_modules("qkvo", "text_encoder_2"))) == 48


@pytest.mark.parametrize("exclude", [None, "down.to_q", r".*\.mid\.to_q", "to_q"])
def test_shapes_are_those_of_the_layers_that_peft_would_adapt(exclude):
    def block(**more):
        return torch.nn.ModuleDict({"to_q": torch.nn.Linear(3, 4), "into_q": torch.nn.Linear(5, 5), **more})

    model = torch.nn.ModuleDict({"to_q": torch.nn.Linear(6, 6), "down": block(), "up": block(mid=block())})
    shapes = linear_shapes(model, ["to_q"], exclude)
    adapted = get_peft_model(model, LoraConfig(r=1, target_modules=["to_q"], exclude_modules=exclude))
    layers = [m for m in adapted.modules() if isinstance(m, LoraLayer)]
    assert shapes == [(layer.in_features, layer.out_features) for layer in layers] != []


def test_unknown_names_are_refused_with_the_names_there_are():
    with pytest.raises(RequestError, match=r"(?s)'loha'.*lora, lora\+, dora, singlora, symlora"):
        get_method("loha")
    with pytest.raises(RequestError, match=r"(?s)'kv'.*qk, qkvo"):
        target_modules("kv", "unet")
    with pytest.raises(RequestError, match=r"(?s)'vae'.*unet, text_encoder"):
        target_modules("qk", "vae")
