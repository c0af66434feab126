"""The exported file does what the trained adapter does: every method, every target, every family."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from helpers.tiny_bases import (
    FAMILIES,
    adapted,
    base_answers,
    distance,
    picture,
    pipe_answers,
    tiny_base,
    write_base,
)
from helpers.tiny_models import tiny_scheduler
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file

from symdream.errors import RequestError
from symdream.interop.arithmetic import compress_to_numbers
from symdream.interop.collect import collect
from symdream.interop.keys import without_text_model
from symdream.interop.lora_file import write_diffusers_lora, write_lora
from symdream.interop.merge import write_merged
from symdream.interop.read import read_adapter
from symdream.tuners import METHODS

PIPELINES = {"sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}
# A second or two each; together too many for the quick run, which takes a symmetric method and the one with magnitudes.
QUICK = {("sd1", "singlora"), ("sd1", "dora")}
EVERY = [
    pytest.param(family, method, marks=() if (family, method) in QUICK else pytest.mark.slow)
    for family in FAMILIES
    for method in METHODS
]
every_pair = pytest.mark.parametrize(("family", "method"), EVERY)


@every_pair
def test_the_diffusers_file_answers_and_paints_like_the_adapter(family, method, tmp_path):
    base = adapted(family, method)
    report = write_diffusers_lora(base, tmp_path / "x.safetensors", {"method": method})
    pipe = tiny_base(family).pipeline()
    plain = pipe_answers(pipe, family)
    pipe.load_lora_weights(tmp_path / "x.safetensors")
    assert distance(pipe_answers(pipe, family), base_answers(base)) < 1e-5
    assert distance(plain, base_answers(base)) > 1e-3, "the adapter must do something"
    assert (picture(pipe) - picture(base.pipeline())).abs().max() < 1e-4
    assert report.error < 1e-6


@every_pair
def test_the_kohya_file_answers_and_paints_like_the_adapter(family, method, tmp_path):
    base = adapted(family, method)
    adapter = collect(base.components(), metadata={"family": family})
    path = tmp_path / "x.safetensors"
    if method == "dora":
        with pytest.raises(RequestError, match="DoRA cannot be written in kohya's layout"):
            write_lora(adapter, path, "kohya")
        assert not list(tmp_path.iterdir())
        return
    write_lora(adapter, path, "kohya")
    pipe = tiny_base(family).pipeline()
    pipe.load_lora_weights(path)
    assert distance(pipe_answers(pipe, family), base_answers(base)) < 1e-5
    assert (picture(pipe) - picture(base.pipeline())).abs().max() < 1e-4


@every_pair
def test_the_peft_folder_answers_like_the_adapter(family, method, tmp_path):
    base = adapted(family, method)
    write_lora(collect(base.components()), tmp_path / "peft", "peft")
    fresh = tiny_base(family)
    fresh.unet = PeftModel.from_pretrained(fresh.unet, tmp_path / "peft" / "unet")
    names = list(fresh.components())[1:]
    encoders = zip(names, fresh.text_encoders, strict=True)
    fresh.text_encoders = [PeftModel.from_pretrained(e, tmp_path / "peft" / name) for name, e in encoders]
    assert distance(base_answers(fresh), base_answers(base)) < 1e-5


@pytest.mark.parametrize(("family", "method"), [("sd1", "dora"), ("sdxl", "lora")])
def test_the_peft_folder_has_the_keys_that_peft_itself_saves(family, method, tmp_path):
    write_lora(collect(adapted(family, method).components()), tmp_path / "peft", "peft")
    for component, model in tiny_base(family).components().items():
        ours = tmp_path / "peft" / component
        PeftModel.from_pretrained(model, ours).save_pretrained(tmp_path / component)
        theirs = load_file(tmp_path / component / "adapter_model.safetensors")
        found = load_file(ours / "adapter_model.safetensors")
        assert found.keys() == theirs.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in theirs.items())


def loaded_by_peft(adapter, folder):
    write_lora(adapter, folder / "peft", "peft")
    fresh = tiny_base("sd1").components()
    return {name: PeftModel.from_pretrained(model, folder / "peft" / name) for name, model in fresh.items()}


def loaded_by_diffusers(adapter, folder, layout="diffusers"):
    write_lora(adapter, folder / "x.safetensors", layout)
    pipe = tiny_base("sd1").pipeline()
    pipe.load_lora_weights(folder / "x.safetensors")
    return {"unet": pipe.unet, "text_encoder": pipe.text_encoder}


def loaded_by_diffusers_from_kohya(adapter, folder):
    return loaded_by_diffusers(adapter, folder, "kohya")


@pytest.mark.parametrize("load", [loaded_by_peft, loaded_by_diffusers, loaded_by_diffusers_from_kohya])
def test_layers_of_several_ranks_are_each_as_strong_as_they_were(load, tmp_path):
    """As compressing to a size leaves them, which gives each layer a rank of its own and some none."""
    adapter = compress_to_numbers(collect(adapted("sd1", "lora").components()), 20_000)
    assert len({layer.rank for layer in adapter.layers.values()}) > 2
    wanted = {(p.component, without_text_model(p.module)): x.scale * x.B @ x.A for p, x in adapter.layers.items()}
    found = {
        (component, name.removeprefix("base_model.model.")): layer.get_delta_weight(layer.active_adapters[0])
        for component, model in load(adapter, tmp_path).items()
        for name, layer in model.named_modules()
        if isinstance(layer, LoraLayer)
    }
    assert found.keys() == wanted.keys()
    for place, delta in wanted.items():
        torch.testing.assert_close(found[place], delta, rtol=1e-5, atol=1e-7)


def test_a_layer_of_alpha_0_stays_without_effect_among_others_in_kohyas_layout(tmp_path):
    adapter = collect(adapted("sd1", "lora").components())
    first, *others = adapter.layers
    adapter.layers |= {place: replace(adapter.layers[place], scale=0.0) for place in others}
    write_lora(adapter, tmp_path / "x.safetensors", "kohya")
    again = read_adapter(tmp_path / "x.safetensors").layers
    for place, layer in adapter.layers.items():
        torch.testing.assert_close(
            again[place].scale * again[place].B @ again[place].A, layer.scale * layer.B @ layer.A
        )
    assert again[first].scale * again[first].B.abs().max() > 0


@every_pair
def test_the_merged_folder_answers_like_the_adapter(family, method, tmp_path):
    base = adapted(family, method)
    wanted = base_answers(base)
    write_merged(base, tmp_path / "merged", {}, dtype=torch.float32, overwrite=False)
    pipe = PIPELINES[family].from_pretrained(tmp_path / "merged")
    assert distance(pipe_answers(pipe, family), wanted) < 1e-5


@every_pair
def test_the_merged_single_file_answers_and_paints_like_the_adapter(family, method, tmp_path):
    base = adapted(family, method)
    wanted, painted = base_answers(base), picture(base.pipeline())
    write_merged(base, tmp_path / "merged.safetensors", {}, dtype=torch.float32, overwrite=False)
    folder = write_base(tiny_base(family), tmp_path / "base")
    pipe = PIPELINES[family].from_single_file(
        str(tmp_path / "merged.safetensors"), config=str(folder), local_files_only=True
    )
    assert distance(pipe_answers(pipe, family), wanted) < 1e-5
    assert (picture(pipe) - painted).abs().max() < 1e-4


@pytest.mark.parametrize(("family", "zero_snr"), [("sd2", True), ("sdxl", False), ("sdxl", True)])
def test_diffusers_reads_a_merged_file_with_the_tensors_that_say_what_it_predicts(tmp_path, family, zero_snr):
    base = adapted(family, "symlora")
    base.prediction_type, base.scheduler = "v_prediction", tiny_scheduler("v_prediction")
    base.scheduler.register_to_config(rescale_betas_zero_snr=zero_snr)
    path = tmp_path / "merged.safetensors"
    write_merged(base, path, {}, dtype=torch.float32, overwrite=False)
    said = {"v_pred": family == "sdxl", "ztsnr": zero_snr}
    with safe_open(path, "pt") as file:
        assert said.keys() & set(file.keys()) == {marker for marker, there in said.items() if there}
    folder = write_base(tiny_base(family), tmp_path / "base")
    pipe = PIPELINES[family].from_single_file(str(path), config=str(folder), local_files_only=True)
    assert distance(pipe_answers(pipe, family), base_answers(base)) < 1e-5
