"""SDXL in the one trainer: two text encoders, pooled text, sizes."""

import numpy as np
import pytest
import torch
from helpers.runs import adapter_tensors, assert_resumes_exactly, symdream, train_tiny

from symdream.diffusion.adapters import attach_saved
from symdream.diffusion.base import load_base
from symdream.diffusion.conditioning import encode, tokenize
from symdream.diffusion.sampling import sample


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_sdxl, photos):
    return train_tiny(tmp_path_factory.mktemp("run") / "xl", tiny_sdxl, photos, method="symlora", steps=2, lr=1e-2)


def test_unet_and_both_encoders_learn_and_are_saved(run):
    moved = {}
    for name, tensor in adapter_tensors(run).items():
        if name.endswith("symlora_lambda"):
            moved.setdefault(name.split(".")[0], []).append(bool(tensor.abs().max() > 0))
    assert set(moved) == {"unet", "text_encoder", "text_encoder_2"}
    assert all(all(layers) for layers in moved.values()), "Λ starts at 0 and must have moved everywhere"


def test_the_layer_that_nothing_reads_gets_no_adapter(run):
    first = {name.split(".layers.")[1][0] for name in adapter_tensors(run) if name.startswith("text_encoder.")}
    second = {name.split(".layers.")[1][0] for name in adapter_tensors(run) if name.startswith("text_encoder_2.")}
    assert first == {"0"} and second == {"0", "1"}
    summary = run.read_summary()
    assert summary["trainable_parameters"] == sum(t.numel() for t in adapter_tensors(run).values())


@torch.no_grad()
def test_the_saved_adapter_loads_into_all_three_models(run, tiny_sdxl):
    plain, taught = load_base(str(tiny_sdxl)), load_base(str(tiny_sdxl))
    attach_saved(taught, run.adapter)
    before, after = (encode(base, tokenize(base, ["a sks toy"])) for base in (plain, taught))
    assert not torch.equal(before.hidden[..., :32], after.hidden[..., :32])
    assert not torch.equal(before.hidden[..., 32:], after.hidden[..., 32:])
    assert not torch.equal(before.pooled, after.pooled)
    images = [sample(base, ["a sks toy"], [0], steps=2)[0] for base in (plain, taught)]
    assert np.abs(np.asarray(images[0], float) - np.asarray(images[1], float)).max() > 0


def test_a_text_encoder_run_leaves_the_unet_alone(tmp_path, tiny_sdxl, photos):
    run = train_tiny(tmp_path / "run", tiny_sdxl, photos, components="text_encoder", method="lora", steps=1)
    assert {name.split(".")[0] for name in adapter_tensors(run)} == {"text_encoder", "text_encoder_2"}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "singlora"])
def test_sdxl_goes_on_bit_for_bit(tmp_path, tiny_sdxl, photos, method):
    assert_resumes_exactly(tmp_path, tiny_sdxl, photos, method=method, min_snr_gamma=5, noise_offset=0.1)


def test_samples_while_training_and_generate_work(tmp_path, tiny_sdxl, photos):
    run = train_tiny(tmp_path / "run", tiny_sdxl, photos, steps=2, sample_every=1)
    assert {p.name for p in run.samples.iterdir()} >= {"step-00001.png", "step-00002.png"}
    made = symdream(
        "generate", "--adapter", run.path, "--prompt", "a {subject}", "--count", 1, "--steps", 2, "-o", tmp_path / "out"
    )
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "out" / "00-0.png").is_file()
