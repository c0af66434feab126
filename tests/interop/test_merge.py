"""Folding an adapter into weights of half precision, against the sum in float64; and what one file keeps of a base."""

import pytest
import torch
from helpers.tiny_bases import adapted, base_answers, distance, tiny_base
from helpers.tiny_models import write_tiny_single_file
from peft import inject_adapter_in_model
from safetensors import safe_open
from torch import nn

from symdream.diffusion.adapters import set_weight
from symdream.diffusion.base import load_base
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.errors import WorkError
from symdream.interop.merge import merge_into, write_merged
from symdream.tuners import METHODS, SymLoraConfig


def halved(method: str, dtype: torch.dtype):
    """A tiny base in half precision, its adapter in fp32."""
    base = adapted("sd1", method)
    for model in base.components().values():
        kept = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
        nn.Module.to(model, dtype=dtype)
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.data = kept[name]
    return base


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_sum_is_rounded_once(dtype):
    base = halved("lora", dtype)
    expected = {}
    for component, model in base.components().items():
        for name, layer in model.named_modules():
            if hasattr(layer, "lora_A"):
                A, B = (getattr(layer, part)["default"].weight.double() for part in ("lora_A", "lora_B"))
                expected[component, name] = layer.get_base_layer().weight.double() + layer.scaling["default"] * B @ A
    assert merge_into(base) == len(expected) > 10
    wrong = total = 0
    for (component, name), whole in expected.items():
        weight = base.components()[component].get_submodule(name).weight
        assert weight.dtype == dtype
        wrong += int((weight != whole.to(dtype)).sum())
        total += weight.numel()
    assert wrong <= 1e-3 * total  # a sum in fp32 falls on another side of a tie now and then


def test_adapters_of_two_tuners_one_over_the_other_are_both_merged():
    base = adapted("sd1", "lora")
    inject_adapter_in_model(SymLoraConfig(r=2, target_modules=["to_q", "to_v"]), base.unet, adapter_name="over")
    for name, parameter in base.unet.named_parameters():
        if "symlora" in name:
            nn.init.normal_(parameter, std=0.3)
    wanted = base_answers(base)
    merge_into(base)
    assert distance(base_answers(base), wanted) < 1e-5 < distance(base_answers(adapted("sd1", "lora")), wanted)
    assert base.unet.state_dict().keys() == tiny_base("sd1").unet.state_dict().keys()


@pytest.mark.parametrize("method", METHODS)
def test_merging_at_weight_0_leaves_the_base_to_the_last_bit(method):
    base = adapted("sd1", method)
    set_weight(base, 0.0)
    merge_into(base)
    for component, model in tiny_base("sd1").components().items():
        merged = base.components()[component].state_dict()
        assert merged.keys() == model.state_dict().keys()
        assert all(torch.equal(merged[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("dtype", "scale", "told"), [(torch.float16, 1e6, "float16"), (torch.float32, 1e39, "NaN")])
def test_a_sum_that_the_format_cannot_hold_is_refused(dtype, scale, told):
    base = halved("lora", dtype)
    layer = next(m for m in base.unet.modules() if hasattr(m, "lora_A"))
    layer.scaling["default"] = scale
    with pytest.raises(WorkError, match=f"cannot be merged: .*{told}"):
        merge_into(base)


@pytest.mark.parametrize(
    ("family", "prediction", "zero_snr", "markers"),
    [
        ("sd1", "v", True, {"ztsnr"}),
        ("sd2", "v", True, {"ztsnr"}),
        ("sd2", "v", False, set()),
        ("sd2", "epsilon", False, set()),
        ("sdxl", "v", True, {"v_pred", "ztsnr"}),
        ("sdxl", "epsilon", False, set()),
    ],
)
def test_one_file_keeps_what_its_base_predicts_and_on_which_schedule(tmp_path, family, prediction, zero_snr, markers):
    path = tmp_path / "x.safetensors"
    base = load_base(str(write_tiny_single_file(path, family, metadata={"modelspec.prediction_type": prediction})))
    if zero_snr:
        use_zero_terminal_snr(base)
    merged = tmp_path / "merged.safetensors"
    write_merged(base, merged, {}, dtype=torch.float16, overwrite=False)
    with safe_open(merged, "pt") as file:
        assert {"v_pred", "ztsnr"} & set(file.keys()) == markers
        written = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        assert file.metadata()["modelspec.prediction_type"] == prediction
    assert {t.dtype for name, t in written.items() if name not in markers} == {torch.float16}

    read = load_base(str(merged))
    assert (read.family, read.prediction_type, read.resolution) == (family, base.prediction_type, base.resolution)
    assert dict(read.scheduler.config) == dict(base.scheduler.config)
    assert torch.equal(read.scheduler.alphas_cumprod, base.scheduler.alphas_cumprod)
    for scheduler in (read.scheduler, base.scheduler):
        scheduler.set_timesteps(7)
    assert torch.equal(read.scheduler.timesteps, base.scheduler.timesteps)
    # The tail of the schedule that SD was trained on, and of the one rescaled to end in noise alone.
    assert float(read.scheduler.alphas_cumprod[-1]) == pytest.approx(0 if zero_snr else 0.00466, rel=1e-3)
    assert int(read.scheduler.timesteps[0]) == (999 if zero_snr else 6 * (1000 // 7) + 1)


def test_weights_that_the_files_format_cannot_hold_are_refused_and_nothing_is_written(tmp_path):
    base = tiny_base("sd1")
    with torch.no_grad():
        base.unet.conv_in.weight[0, 0, 0, 0] = 1e5  # too large for fp16, not for fp32
    with pytest.raises(WorkError, match="unet.conv_in.weight is too large for float16"):
        write_merged(base, tmp_path / "x.safetensors", {}, dtype=torch.float16, overwrite=False)
    assert not list(tmp_path.iterdir())
