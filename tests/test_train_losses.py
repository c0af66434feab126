"""The losses as settings of a run: from TOML and the command line to the adapter."""

import json

import pytest
import torch
from helpers.runs import adapter_tensors, assert_resumes_exactly, symdream, train_tiny

from symdream.errors import RequestError

ONE_STEP = {"steps": 1, "method": "lora", "components": "unet"}


def first_loss(run):
    return json.loads(run.metrics.read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize("option", [{"min_snr_gamma": 5.0}, {"noise_offset": 0.3}, {"zero_terminal_snr": True}])
def test_each_option_changes_the_loss(tmp_path, tiny_sd2, photos, option):
    plain = train_tiny(tmp_path / "plain", tiny_sd2, photos, **ONE_STEP)
    changed = train_tiny(tmp_path / "changed", tiny_sd2, photos, **ONE_STEP, **option)
    assert first_loss(plain) != first_loss(changed)


def test_min_snr_with_a_huge_gamma_is_the_plain_loss_of_eps(tmp_path, tiny_sd1, photos):
    plain = train_tiny(tmp_path / "plain", tiny_sd1, photos, **ONE_STEP)
    weighted = train_tiny(tmp_path / "weighted", tiny_sd1, photos, **ONE_STEP, min_snr_gamma=1e9)
    assert first_loss(plain) == first_loss(weighted)


def test_zero_terminal_snr_is_refused_where_the_base_predicts_noise(tmp_path, tiny_sd1, photos):
    with pytest.raises(RequestError, match="predicts the noise"):
        train_tiny(tmp_path / "run", tiny_sd1, photos, **ONE_STEP, zero_terminal_snr=True)


def test_an_adapter_brings_its_noise_schedule_along(tmp_path, tiny_sd2, photos):
    from symdream.diffusion.adapters import attach_saved
    from symdream.diffusion.base import load_base
    from symdream.interop.open import open_adapter

    run = train_tiny(tmp_path / "run", tiny_sd2, photos, **ONE_STEP, zero_terminal_snr=True)
    base = load_base(str(tiny_sd2))
    metadata = attach_saved(base, run.adapter)
    assert metadata["zero_terminal_snr"] is True and base.scheduler.alphas_cumprod[-1] == 0
    opened, _ = open_adapter(run.path)
    assert torch.equal(opened.scheduler.alphas_cumprod, base.scheduler.alphas_cumprod)
    plain = train_tiny(tmp_path / "plain", tiny_sd2, photos, **ONE_STEP)
    opened, _ = open_adapter(plain.path)
    assert opened.scheduler.alphas_cumprod[-1] > 0


@pytest.mark.slow
def test_all_together_from_toml_and_flags(tmp_path, tiny_sd2, photos):
    toml = tmp_path / "settings.toml"
    toml.write_text(
        f'[subject]\nimages = "{photos}"\nclass_noun = "toy"\n'
        f'[model]\nbase = "{tiny_sd2}"\ndevice = "cpu"\n'
        "[loss]\nmin_snr_gamma = 5.0\nnoise_offset = 0.1\n"
        '[training]\noptimizer = "prodigy"\nsteps = 2\nbatch_size = 2\n'
    )
    result = symdream(
        "train", "--config", toml, "--zero-terminal-snr", "--gradient-checkpointing", "--min-snr-gamma", 3,
        "--method", "lora", "-o", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    import tomllib

    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert stored["loss"] == {"min_snr_gamma": 3.0, "noise_offset": 0.1, "zero_terminal_snr": True}
    assert stored["training"]["optimizer"] == "prodigy" and stored["training"]["lr"] == 1.0
    assert stored["training"]["gradient_checkpointing"] is True


@pytest.mark.slow
def test_all_together_go_on_bit_for_bit(tmp_path, tiny_sd2, photos):
    run = assert_resumes_exactly(
        tmp_path, tiny_sd2, photos, method="singlora", min_snr_gamma=5, noise_offset=0.1, zero_terminal_snr=True,
        gradient_checkpointing=True, lr_schedule="linear", warmup=0.5,
    )  # fmt: skip
    assert adapter_tensors(run)
