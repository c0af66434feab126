"""A UNet within `lean` says what it says without, and copies no layouts."""

from collections import Counter

import pytest
import torch
import torch.nn.functional as F
from helpers.tiny_bases import adapted, tiny_base
from torch.utils._python_dispatch import TorchDispatchMode

from symdream.diffusion import lean_unet
from symdream.diffusion.conditioning import Text, size_ids, unet_arguments
from symdream.diffusion.lean_unet import lean


def reference(x, groups, weight, bias, eps, *, silu):
    """What group_norm computes, by PyTorch, whose CPU kernel knows channels-last."""
    assert x.is_contiguous(memory_format=torch.channels_last)
    y = F.group_norm(x, groups, weight, bias, eps)
    return F.silu(y) if silu else y


class LayoutCopies(TorchDispatchMode):
    """Counts the copies of pictures from channels-last into the other layout."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy) and out.ndim == 4:
            self.found[args[0].stride() != out.stride()] += 1
        return out


def answer(base, sides=(12, 20)):
    """The UNet's prediction, its gradient to the latents, and how many layouts were copied."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, *sides, generator=generator).contiguous(memory_format=torch.channels_last).requires_grad_()
    width = base.unet.config.cross_attention_dim
    projected = base.components()["text_encoder_2"].config.projection_dim if base.family == "sdxl" else None
    pooled = torch.randn(2, projected, generator=generator) if projected else None
    text = Text(torch.randn(2, 77, width, generator=generator), pooled)
    told = unet_arguments(text, size_ids((64, 64), (0, 0), (64, 64)).repeat(2, 1) if base.family == "sdxl" else None)
    with LayoutCopies() as copies:
        prediction = base.unet(x, torch.tensor([7, 900]), **told).sample
        (gradient,) = torch.autograd.grad(prediction.square().sum(), x)
    return prediction.detach(), gradient, copies.found[True]


def channels_last(base):
    base.unet.requires_grad_(False).to(memory_format=torch.channels_last)
    return base


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_the_prediction_and_its_gradient_are_the_same(family):
    base = channels_last(tiny_base(family))
    before = answer(base)
    with lean(base.unet, reference):
        within = answer(base)
    torch.testing.assert_close(within[0], before[0])
    torch.testing.assert_close(within[1], before[1], rtol=1e-4, atol=1e-5)
    assert before[2] > 0 and within[2] == 0


def test_so_they_are_under_an_adapter_and_with_gradient_checkpointing():
    base = channels_last(adapted("sd1", "singlora"))
    base.unet.enable_gradient_checkpointing()
    before = answer(base)
    with lean(base.unet, reference):
        within = answer(base)
    torch.testing.assert_close(within[0], before[0])
    torch.testing.assert_close(within[1], before[1], rtol=1e-4, atol=1e-5)


def test_every_normalisation_is_asked_for_and_silu_only_where_it_follows():
    base, asked = channels_last(tiny_base("sd1")), []

    def told(x, *args, silu):
        asked.append(silu)
        return reference(x, *args, silu=silu)

    with lean(base.unet, told):
        answer(base)
    norms = sum(isinstance(m, torch.nn.GroupNorm) for m in base.unet.modules())
    transformers = sum(type(m).__name__ == "Transformer2DModel" for m in base.unet.modules())
    assert len(asked) == norms
    assert asked.count(False) == transformers


def test_groups_too_large_for_the_kernels_are_left_to_pytorch(monkeypatch):
    base, asked = channels_last(tiny_base("sd1")), []

    def told(x, *args, silu):
        asked.append(x.shape)
        return reference(x, *args, silu=silu)

    before = answer(base)
    # Of 12 x 20 latents; the deeper ones have fewer numbers a group.
    monkeypatch.setattr(lean_unet, "MOST", 12 * 20 * base.unet.config.block_out_channels[0] // 32 - 1)
    with lean(base.unet, told):
        within = answer(base)
    torch.testing.assert_close(within[0], before[0])
    assert asked and all(shape[2] < 12 for shape in asked)


def test_nothing_is_left_behind_even_after_an_error():
    base = channels_last(tiny_base("sd1"))
    before = {name: set(vars(module)) for name, module in base.unet.named_modules()}
    with pytest.raises(ZeroDivisionError), lean(base.unet, reference):
        assert any(set(vars(module)) != before[name] for name, module in base.unet.named_modules())
        1 / 0  # noqa: B018
    assert {name: set(vars(module)) for name, module in base.unet.named_modules()} == before


def test_a_trained_or_hooked_normalisation_stays_as_it_is():
    base, asked = channels_last(tiny_base("sd1")), []
    resnet = base.unet.mid_block.resnets[0]
    resnet.norm1.weight.requires_grad_(True)
    out = base.unet.conv_norm_out
    out.forward = type(out).forward.__get__(out)
    before = answer(base)

    def told(x, groups, weight, *args, **kwargs):
        asked.append(weight)
        return reference(x, groups, weight, *args, **kwargs)

    with lean(base.unet, told):
        within = answer(base)
    torch.testing.assert_close(within[0], before[0])
    assert not any(weight is resnet.norm1.weight or weight is out.weight for weight in asked)
    # The other one of that block cannot leave its SiLU to us alone.
    assert any(weight is resnet.norm2.weight for weight in asked)
