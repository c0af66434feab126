"""Optimizers and their groups, on real adapters of a tiny base."""

import json
import sys

import pytest
import torch
from helpers.runs import tiny_config

from symdream.diffusion.adapters import attach
from symdream.diffusion.base import load_base
from symdream.errors import Problems, RequestError
from symdream.training.checkpoint import load_checkpoint, save_checkpoint
from symdream.training.defaults import resolve
from symdream.training.optimizer import make_optimizer

OPTIMIZERS = ["adamw", "adamw8bit", "prodigy"]


def prepare(folder, photos, **flags):
    """(parameters by component and name, optimizer) of a run with these flags."""
    base = load_base(str(folder))
    config = resolve(tiny_config(folder, photos, **{"lr": None, **flags}), base)
    adapter = config.adapter
    trainable = attach(
        base, adapter.method, adapter.rank, adapter.alpha, adapter.targets, base.chosen(adapter.components), 0.0, 0
    )
    return trainable, make_optimizer(config, trainable)


def step(trainable, optimizer, number):
    """One update by gradients that depend on the parameters and on `number`."""
    generator = torch.Generator().manual_seed(number)
    for named in trainable.values():
        for parameter in named.values():
            parameter.grad = 0.1 * parameter.detach() + torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("method", ["lora", "symlora"])
def test_a_checkpoint_brings_an_optimizer_back_bit_for_bit(tmp_path, tiny_sd2, photos, name, method):
    # This base's text is 1024 wide: some tensors have more than 4096 elements, which 8-bit AdamW needs.
    options = {"optimizer": name, "method": method, "rank": 8}
    trainable, optimizer = prepare(tiny_sd2, photos, **options)
    for number in range(3):
        step(trainable, optimizer, number)
    save_checkpoint(tmp_path, 3, trainable, optimizer, {}, keep=1)
    other, other_optimizer = prepare(tiny_sd2, photos, **options)
    load_checkpoint(tmp_path / "step-3", other, other_optimizer)
    for number in range(3, 6):
        step(trainable, optimizer, number)
        step(other, other_optimizer, number)
    for component, named in trainable.items():
        for parameter_name, parameter in named.items():
            assert torch.equal(parameter, other[component][parameter_name]), parameter_name
    for group, twin in zip(optimizer.param_groups, other_optimizer.param_groups, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in twin.items() if k != "params"}


def test_the_8_bit_optimizer_keeps_its_moments_in_8_bits(tiny_sd2, photos):
    trainable, optimizer = prepare(tiny_sd2, photos, optimizer="adamw8bit", method="lora", rank=8, components="unet")
    step(trainable, optimizer, 0)
    kinds = {
        (parameter.numel() >= 4096): optimizer.state[parameter]["state1"].dtype
        for parameter in trainable["unet"].values()
    }
    assert kinds == {True: torch.uint8, False: torch.float32}


def test_8_bit_adamw_steps_nearly_as_adamw(tiny_sd2, photos):
    results = {}
    for name in ("adamw", "adamw8bit"):
        flags = {"optimizer": name, "method": "lora", "rank": 8, "components": "unet", "lr": 1e-3}
        trainable, optimizer = prepare(tiny_sd2, photos, **flags)
        for number in range(5):
            step(trainable, optimizer, number)
        results[name] = torch.cat([p.detach().flatten() for p in trainable["unet"].values()])
    difference = (results["adamw"] - results["adamw8bit"]).abs()
    assert difference.max() < 5e-3 and difference.mean() < 5e-4


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_of_every_part_decay_as_asked(tiny_sd1, photos, name):
    _, optimizer = prepare(tiny_sd1, photos, optimizer=name, method="symlora", weight_decay=0.3)
    assert {g["name"]: g["weight_decay"] for g in optimizer.param_groups} == {
        f"{part}{kind}": 0.3 for part in ("unet", "text_encoder") for kind in ("", ".symlora_lambda")
    }


@pytest.mark.parametrize("name", ["adamw", "adamw8bit"])
def test_without_gradients_weights_shrink_by_rate_times_decay(tiny_sd1, photos, name):
    flags = {"optimizer": name, "method": "singlora", "components": "unet", "lr": 1e-2, "weight_decay": 0.3}
    trainable, optimizer = prepare(tiny_sd1, photos, **flags)
    before = {n: p.detach().clone() for n, p in trainable["unet"].items()}
    for parameter in trainable["unet"].values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for n, parameter in trainable["unet"].items():
        torch.testing.assert_close(parameter.detach(), before[n] * (1 - 1e-2 * 0.3))


def test_prodigy_finds_a_larger_step_by_itself(tiny_sd1, photos):
    trainable, optimizer = prepare(tiny_sd1, photos, optimizer="prodigy", method="lora")
    assert {group["lr"] for group in optimizer.param_groups} == {1.0}
    assert all(group["use_bias_correction"] and group["safeguard_warmup"] for group in optimizer.param_groups)
    start = optimizer.param_groups[0]["d"]
    for _ in range(80):
        for named in trainable.values():  # one direction all the time: a longer step is right
            for parameter in named.values():
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    assert optimizer.param_groups[0]["d"] > 10 * start


def test_prodigy_prints_nothing_on_standard_output(tiny_sd1, photos, capsys):
    prepare(tiny_sd1, photos, optimizer="prodigy", method="lora")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("flags", "rates"),
    [
        (
            {"method": "symlora", "lr": 1e-3, "text_encoder_lr": 1e-4, "lambda_lr": 0.5},
            {"unet": 1e-3, "unet.symlora_lambda": 0.5, "text_encoder": 1e-4, "text_encoder.symlora_lambda": 0.5},
        ),
        (
            {"method": "lora+", "lr": 1e-3, "text_encoder_lr": 1e-4, "lora_plus_ratio": 4},
            {"unet": 1e-3, "unet.lora_B": 4e-3, "text_encoder": 1e-4, "text_encoder.lora_B": 4e-4},
        ),
        ({"method": "dora", "lr": 1e-3, "components": "unet"}, {"unet": 1e-3}),
    ],
)
def test_each_part_learns_at_its_own_rate(tiny_sd1, photos, flags, rates):
    trainable, optimizer = prepare(tiny_sd1, photos, **flags)
    assert {g["name"]: g["lr"] for g in optimizer.param_groups} == pytest.approx(rates)
    grouped = [p for g in optimizer.param_groups for p in g["params"]]
    everything = [p for named in trainable.values() for p in named.values()]
    assert {id(p) for p in grouped} == {id(p) for p in everything} and len(grouped) == len(everything)
    lambdas = {id(p) for named in trainable.values() for n, p in named.items() if "symlora_lambda" in n}
    assert lambdas == {id(p) for g in optimizer.param_groups if "lambda" in g["name"] for p in g["params"]}


def test_both_encoders_of_sdxl_have_groups(tiny_sdxl, photos):
    _, optimizer = prepare(tiny_sdxl, photos, method="singlora", lr=1e-3, text_encoder_lr=1e-4)
    rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
    assert rates == {"unet": 1e-3, "text_encoder": 1e-4, "text_encoder_2": 1e-4}


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        ({"method": "lora+"}, "training.optimizer = prodigy"),
        ({"method": "lora", "text_encoder_lr": 0.5}, "training.text_encoder_lr = 0.5"),
        ({"method": "symlora", "lambda_lr": 0.5}, "training.lambda_lr = 0.5"),
    ],
)
def test_prodigy_refuses_a_second_rate(tiny_sd1, photos, flags, key):
    with pytest.raises(Problems, match="prodigy has one rate|has one rate for all") as caught:
        tiny_config(tiny_sd1, photos, **{"lr": None, "optimizer": "prodigy", **flags})
    assert [problem.key for problem in caught.value.problems] == [key]


@pytest.mark.parametrize(("name", "package"), [("adamw8bit", "bitsandbytes"), ("prodigy", "prodigyopt")])
def test_a_missing_library_is_told_with_the_command_that_installs_it(tiny_sd1, photos, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)  # importing it raises ImportError
    with pytest.raises(RequestError, match=f"--optimizer {name} needs {package}") as caught:
        prepare(tiny_sd1, photos, optimizer=name, method="lora")
    assert f"pip install {package}" in caught.value.fix


@pytest.mark.parametrize("name", OPTIMIZERS[1:])
def test_a_run_goes_on_bit_for_bit_with_each_optimizer(tmp_path, tiny_sd1, photos, name):
    from helpers.runs import assert_resumes_exactly

    run = assert_resumes_exactly(
        tmp_path, tiny_sd1, photos, optimizer=name, lr=None, method="symlora", components="unet", lr_schedule="cosine"
    )
    assert json.loads(run.metrics.read_text().splitlines()[0])["lr"]["unet"] > 0
