"""`sample` gives the pictures of diffusers' own pipeline: on CPU, where nothing is recorded, bit for bit."""

from copy import deepcopy

import diffusers
import numpy as np
import pytest
import torch
from helpers.tiny_bases import adapt, tiny_base

from symdream.diffusion.adapters import adapter_layers, attach, set_weight, train_adapters
from symdream.diffusion.base import load_base
from symdream.diffusion.captured import Captured, fill, fingerprint
from symdream.diffusion.conditioning import Text
from symdream.diffusion.sampling import SAMPLERS, decode, evaluating, make_scheduler, sample
from symdream.diffusion.sampling_engine import Conditioning, DenoisingSteps
from symdream.tuners import METHODS

PROMPTS = ["a 3d render of a sks bird on a red background", "a cartoon emoji of a cat on a blue background", "a toy"]


def pipeline_pictures(base, prompts, seeds, steps, guidance, sampler="base", negative=None, **size):
    pipe = base.pipeline()
    pipe.scheduler = make_scheduler(base, sampler)
    with torch.inference_mode():
        return pipe(
            prompt=prompts,
            negative_prompt=[negative] * len(prompts) if negative else None,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator().manual_seed(s) for s in seeds],
            height=size.get("height", base.resolution),
            width=size.get("width", base.resolution),
        ).images


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize(
    "family, sampler", [("sd1", "euler"), ("sd1", "dpm++"), ("sd2", "base"), ("sdxl", "base"), ("sdxl", "euler")]
)
def test_pictures_are_the_pipelines_own(family, sampler):
    base = adapt(tiny_base(family), "singlora")
    options = {"steps": 4, "guidance": 3.3, "sampler": sampler}
    assert_same(sample(base, PROMPTS, [1, 2, 3], **options), pipeline_pictures(base, PROMPTS, [1, 2, 3], **options))


@pytest.mark.parametrize("family, guidance", [("sd1", 5.0), ("sdxl", 5.0), ("sd1", 1.0), ("sd1", 0.0)])
def test_so_they_are_with_a_negative_prompt_another_size_and_without_guidance(family, guidance):
    base = tiny_base(family)
    ours = sample(base, PROMPTS, [4, 5, 6], steps=3, guidance=guidance, negative_prompt="red", width=96, height=64)
    theirs = pipeline_pictures(base, PROMPTS, [4, 5, 6], 3, guidance, negative="red", width=96, height=64)
    assert_same(ours, theirs)


def test_pndm_which_keeps_the_predictions_it_is_given():
    from diffusers import PNDMScheduler

    base = tiny_base("sd1")
    base.scheduler = PNDMScheduler.from_config(base.scheduler.config, skip_prk_steps=True)
    assert_same(
        sample(base, PROMPTS[:1], [7], steps=6, guidance=2.0), pipeline_pictures(base, PROMPTS[:1], [7], 6, 2.0)
    )


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_each_batch_goes_through_all_steps_of_its_sampler(sampler):
    base = tiny_base("sd1")
    # PNDM, Euler and DPM++ keep what they were given at the steps before.
    base.scheduler = diffusers.PNDMScheduler.from_config(base.scheduler.config, skip_prk_steps=True)
    ours = sample(base, PROMPTS, [1, 2, 3], steps=3, guidance=2.0, sampler=sampler, batch_size=2)
    batches = (PROMPTS[:2], [1, 2]), (PROMPTS[2:], [3])
    assert_same(ours, [p for batch in batches for p in pipeline_pictures(base, *batch, 3, 2.0, sampler)])


def test_an_sdxl_that_was_not_trained_with_zeros_for_no_prompt_is_told_the_empty_one():
    base = tiny_base("sdxl")
    base.force_zeros_for_empty_prompt = False
    ours = sample(base, PROMPTS[:1], [1], steps=2, guidance=3.0)
    assert_same(ours, pipeline_pictures(base, PROMPTS[:1], [1], 2, 3.0))


def test_an_sdxl_decoder_in_fp16_decodes_in_fp32_and_is_fp16_afterwards():
    base = tiny_base("sdxl").to(dtype=torch.float16)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).half()
    with torch.no_grad():
        # As in the real decoder, what comes out of a layer is beyond 65504, the largest number of fp16.
        base.vae.decoder.conv_in.weight.mul_(1e5)
        whole = deepcopy(base.vae).float()
        pixels = whole.decode((latents / whole.config.scaling_factor).float()).sample
        assert whole.decoder.conv_in(latents.float()).abs().max() > 65504
        [ours] = decode(base, latents)
    wanted = (pixels[0] / 2 + 0.5).clamp(0, 1).mul(255).round().permute(1, 2, 0).byte()
    assert wanted.float().std() > 0 and np.array_equal(np.asarray(ours), wanted.numpy())
    assert {p.dtype for p in base.vae.parameters()} == {torch.float16}


@pytest.mark.parametrize(
    "kind",
    ["EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "LCMScheduler", "DDPMScheduler"],
)
def test_samplers_that_add_noise_on_their_way_draw_it_from_the_seeds(kind):
    base = tiny_base("sd1")
    base.scheduler = getattr(diffusers, kind).from_config(base.scheduler.config)
    options = {"steps": 4, "guidance": 3.0}
    first = sample(base, PROMPTS, [1, 2, 3], **options)
    assert_same(sample(base, PROMPTS, [1, 2, 3], **options), first)
    assert_same(first, pipeline_pictures(base, PROMPTS, [1, 2, 3], **options))


@pytest.mark.parametrize("method", ["dora", "symlora"])
def test_a_merged_adapter_gives_the_same_picture_to_a_level(method):
    base = adapt(tiny_base("sd1"), method)
    plain = np.asarray(sample(base, PROMPTS[:1], [0], steps=3)[0], dtype=int)
    bare = np.asarray(sample(tiny_base("sd1"), PROMPTS[:1], [0], steps=3)[0], dtype=int)
    from symdream.diffusion.adapters import adapter_layers

    for module in base.components().values():
        for layer in adapter_layers(module):
            layer.merge()
    merged = np.asarray(sample(base, PROMPTS[:1], [0], steps=3)[0], dtype=int)
    assert np.abs(merged - plain).max() <= 1 < np.abs(bare - plain).max()


@pytest.mark.parametrize("method", METHODS)
def test_at_weight_0_a_picture_is_the_bases_to_the_last_bit_and_at_1_the_adapters_again(method):
    base = adapt(tiny_base("sd1"), method)
    trained = {name for name, p in base.unet.named_parameters() if p.requires_grad}
    adapted = sample(base, PROMPTS[:1], [0], steps=3)
    bare = sample(tiny_base("sd1"), PROMPTS[:1], [0], steps=3)
    assert not np.array_equal(np.asarray(adapted[0]), np.asarray(bare[0]))
    set_weight(base, 0.0)
    assert_same(sample(base, PROMPTS[:1], [0], steps=3), bare)
    set_weight(base, 1.0)
    assert_same(sample(base, PROMPTS[:1], [0], steps=3), adapted)
    assert {name for name, p in base.unet.named_parameters() if p.requires_grad} == trained


@pytest.mark.slow
def test_sprite_with_an_adapter_draws_what_the_pipeline_draws():
    base = load_base("sprite")
    attach(base, "symlora", 8, 8.0, "qkvo", base.components(), 0.0, 0)
    for module in base.components().values():
        for name, parameter in module.named_parameters():
            if "symlora_lambda" in name:
                torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(0))
    ours = sample(base, PROMPTS[:2], [0, 1], steps=8)
    assert_same(ours, pipeline_pictures(base, PROMPTS[:2], [0, 1], 8, base.defaults["guidance"]))


def test_progress_counts_every_step_of_every_batch():
    seen = []
    sample(tiny_base("sd1"), PROMPTS, [0, 1, 2], steps=2, batch_size=2, on_step=lambda *told: seen.append(told))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_each_batch_is_told_with_the_place_of_its_first_picture():
    told = []
    images = sample(tiny_base("sd1"), PROMPTS, [1, 2, 3], steps=1, batch_size=2, on_images=lambda *x: told.append(x))
    assert told == [(0, images[:2]), (2, images[2:])]


def test_a_step_serves_batches_of_its_shape_and_is_made_anew_when_the_adapters_state_changes():
    base, steps = adapt(tiny_base("sd1"), "lora"), DenoisingSteps()
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    hidden = torch.randn(2, 2, 77, 32, generator=torch.Generator().manual_seed(1))

    def step(rows=2, told=0):
        return steps.get(base.unet, latents[:rows], Conditioning(Text(hidden[told][:rows])), None)

    def direct(told):
        return base.unet(latents, torch.tensor(500.0), hidden[told]).sample

    with torch.inference_mode():
        first = step()
        for told in (0, 1):
            assert step(told=told) is first
            assert torch.equal(first.predict(latents, torch.tensor(500.0)), direct(told))
        assert step(rows=1) is not first and step() is first
        for layer in base.unet.modules():
            if hasattr(layer, "lora_A"):
                layer.set_scale("default", 0.5)
        assert step() is not first
        assert torch.equal(step(told=1).predict(latents, torch.tensor(500.0)), direct(1))


def test_only_so_many_steps_are_kept():
    base, steps = tiny_base("sd1"), DenoisingSteps()
    conditioning = Conditioning(Text(torch.zeros(1, 77, 32)))
    first = steps.get(base.unet, torch.zeros(1, 4, 8, 8), conditioning, None)
    for side in (16, 24, 32, 40):
        steps.get(base.unet, torch.zeros(1, 4, side, 8), conditioning, None)
    assert steps.get(base.unet, torch.zeros(1, 4, 8, 8), conditioning, None) is not first


def test_the_fingerprint_tells_moved_weights_merging_weights_and_mode():
    base = adapt(tiny_base("sd1"), "singlora")
    layers = [m for m in base.unet.modules() if hasattr(m, "singlora_A")]
    seen = [fingerprint(base.unet)]
    assert fingerprint(base.unet) == seen[0]
    changes = [
        lambda: layers[0].set_scale("default", 0.5),
        lambda: layers[1].merge(),
        lambda: layers[2].enable_adapters(False),
        lambda: base.unet.train(),
        lambda: setattr(base.unet.conv_in.weight, "data", base.unet.conv_in.weight.data.clone()),
    ]
    for change in changes:
        change()
        seen.append(fingerprint(base.unet))
    assert len(set(seen)) == len(seen)


def test_captured_reads_what_its_buffers_hold_at_the_call():
    buffers = {"x": torch.zeros(2), "y": None}
    out = torch.zeros(2)
    double = Captured(lambda: out.copy_(2 * buffers["x"]), torch.device("cpu"))
    for value in (1.0, 3.0):
        fill(buffers, {"x": torch.full((2,), value), "y": None})
        double()
        assert out.tolist() == [2 * value] * 2
    for wrong in ({"x": torch.zeros(3), "y": None}, {"x": torch.zeros(2), "y": torch.zeros(1)}):
        with pytest.raises(ValueError, match="the buffer is"):
            fill(buffers, wrong)


def test_after_sampling_adapters_are_in_train_mode_and_the_unet_is_not():
    base = tiny_base("sd1")
    attach(base, "lora", 2, 2.0, "qkvo", ["unet"], 0.5, 0)
    train_adapters(base, ["unet"])
    with evaluating(base):
        assert not any(part.training for part in base.unet.modules())
    assert all(layer.training for layer in adapter_layers(base.unet))
    assert not base.unet.training and not base.unet.mid_block.resnets[0].training
