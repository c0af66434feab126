"""What the UNet is told, against diffusers' pipelines."""

import pytest
import torch

from symdream.data.buckets import cuts
from symdream.diffusion.base import load_base
from symdream.diffusion.conditioning import Text, encode, size_ids, tokenize, unet_arguments, unused_layers

PROMPTS = ["a 3d render of a sks bird", "a cat on a " + "very " * 100 + "long mat", ""]


@pytest.fixture(params=["tiny_sd1", "tiny_sd2", "tiny_sdxl"])
def base(request):
    return load_base(str(request.getfixturevalue(request.param)))


@torch.no_grad()
def test_the_text_is_what_the_pipeline_encodes(base):
    text = encode(base, tokenize(base, PROMPTS))
    expected = base.pipeline().encode_prompt(
        prompt=PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    assert torch.equal(text.hidden, expected[0])
    if base.family == "sdxl":
        assert torch.equal(text.pooled, expected[2])
    else:
        assert text.pooled is None


@torch.no_grad()
def test_the_unet_answers_as_inside_the_sdxl_pipeline(tiny_sdxl):
    base = load_base(str(tiny_sdxl))
    seen = {}
    forward = base.unet.forward

    def spy(sample, timestep, encoder_hidden_states, **rest):
        answer = forward(sample, timestep, encoder_hidden_states=encoder_hidden_states, **rest)
        seen.setdefault("call", (sample, timestep, answer[0]))
        return answer

    base.unet.forward = spy
    base.pipeline()("a sks bird", num_inference_steps=1, guidance_scale=1, height=64, width=128, output_type="latent")
    sample, timestep, answer = seen["call"]
    sizes = size_ids((64, 128), (0, 0), (64, 128))[None]
    text = encode(base, tokenize(base, ["a sks bird"]))
    torch.testing.assert_close(forward(sample, timestep, **unet_arguments(text, sizes)).sample, answer)


def test_rows_give_each_sample_its_caption():
    text = Text(torch.arange(6.0).view(2, 3, 1), torch.tensor([[1.0], [2.0]]))
    chosen = text.rows(torch.tensor([1, 0, 1]))
    assert chosen.hidden[:, 0, 0].tolist() == [3, 0, 3] and chosen.pooled[:, 0].tolist() == [2, 1, 2]


def test_the_sizes_tell_the_photo_and_the_cut():
    # 400 wide, 200 high, cut to the middle 200 x 200, scaled by 1/2: the cut starts 50 pixels from the left.
    [[cut]] = cuts((400, 200), (100, 100), "center")
    sizes = size_ids(cut.photo[::-1], cut.top_left, cut.size[::-1])
    assert sizes.tolist() == [200, 400, 0, 50, 100, 100]


def test_the_layer_that_sdxl_does_not_read_has_no_influence(tiny_sdxl):
    base = load_base(str(tiny_sdxl))
    assert unused_layers(base, "text_encoder") and unused_layers(base, "text_encoder_2") is None
    text = encode(base, tokenize(base, PROMPTS))
    (text.hidden.sum() + text.pooled.sum()).backward()
    import re

    for component in ("text_encoder", "text_encoder_2"):
        pattern = unused_layers(base, component) or "nothing"
        for name, module in base.components()[component].named_modules():
            if name.endswith("q_proj"):
                assert (module.weight.grad is None) == bool(re.fullmatch(pattern, name)), name
