"""The proof of test_proof.py on the embedded base, for every method."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.tiny_bases import adapt, base_answers, distance, picture, pipe_answers, write_base

from symdream.diffusion.base import load_base
from symdream.interop.collect import collect
from symdream.interop.lora_file import write_diffusers_lora, write_lora
from symdream.interop.merge import write_merged
from symdream.tuners import METHODS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_base(load_base("sprite"), tmp_path_factory.mktemp("sprite") / "base")


@pytest.mark.parametrize("method", METHODS)
def test_every_target_answers_and_paints_like_the_adapter(method, folder, tmp_path):
    base = adapt(load_base("sprite"), method, rank=8)
    wanted, painted = base_answers(base), picture(base.pipeline())
    file = tmp_path / "x.safetensors"

    def check(pipe):
        assert distance(pipe_answers(pipe, "sd1"), wanted) < 1e-5
        assert (picture(pipe) - painted).abs().max() < 1e-4

    write_diffusers_lora(base, file, {})
    pipe = load_base("sprite").pipeline()
    pipe.load_lora_weights(file)
    check(pipe)
    if method != "dora":
        write_lora(collect(base.components(), metadata={"family": "sd1"}), file, "kohya")
        pipe = load_base("sprite").pipeline()
        pipe.load_lora_weights(file)
        check(pipe)
    write_merged(base, tmp_path / "m.safetensors", {}, dtype=torch.float32, overwrite=False)
    check(StableDiffusionPipeline.from_single_file(str(tmp_path / "m.safetensors"), config=str(folder)))
    base = adapt(load_base("sprite"), method, rank=8)
    write_merged(base, tmp_path / "m", {}, dtype=torch.float32, overwrite=False)
    check(StableDiffusionPipeline.from_pretrained(tmp_path / "m"))
