"""diffusers' own adapter calls drive the tuners on UNet and text encoder."""

import json

import pytest
import torch
from helpers.adapters import CONFIGS, randomize
from helpers.sd_configs import make_text_encoder, make_unet, unet_inputs
from peft import PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors import safe_open
from transformers import CLIPTokenizer

from symdream.tuners import METHODS, SymmetricLinear, param_groups, set_ramp, target_modules

UNET = target_modules("qkvo", "unet")
TEXT = target_modules("qkvo", "text_encoder")
IDS = torch.tensor([[98, 3, 4, 99]])


def unet_output(unet, **kwargs):
    with torch.no_grad():
        return unet(**unet_inputs(), **kwargs).sample


def text_output(text_encoder):
    with torch.no_grad():
        return text_encoder(IDS).last_hidden_state


def close(a, b, tolerance=1e-4):
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance)


def deltas(model, name):
    """Weight of every adapted layer minus its base's, by layer, from the dense oracle."""
    return {n: m.get_delta_weight(name) for n, m in model.named_modules() if isinstance(m, SymmetricLinear)}


def with_added(make, added):
    """A plain model with these deltas in its weights: what any sum of adapters has to equal."""
    model = make()
    with torch.no_grad():
        for name, delta in added.items():
            model.get_submodule(name).weight += delta
    return model


@pytest.fixture(params=CONFIGS)
def pipe(request):
    """A pipeline of tiny parts whose UNet and text encoder carry adapters `a` and `b` of one method."""
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline

    unet, text = make_unet(), make_text_encoder()
    for model, targets in ((unet, UNET), (text, TEXT)):
        for name, r in (("a", 2), ("b", 3)):
            model.add_adapter(CONFIGS[request.param](r=r, target_modules=targets), name)
        randomize(model)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=CLIPTokenizer.__new__(CLIPTokenizer),
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@pytest.mark.parametrize(("weight_a", "weight_b"), [(1.0, 1.0), (0.5, 2.0), (-0.7, 0.3), (0.0, 1.0)])
def test_set_adapters_with_weights_adds_the_weighted_updates(pipe, weight_a, weight_b):
    pipe.set_adapters(["a", "b"])
    parts = ((pipe.unet, make_unet, unet_output), (pipe.text_encoder, make_text_encoder, text_output))
    wanted = []
    for model, make, output in parts:
        a, b = deltas(model, "a"), deltas(model, "b")
        assert len(a) == {make_unet: 56, make_text_encoder: 8}[make]
        wanted.append(output(with_added(make, {n: weight_a * a[n] + weight_b * b[n] for n in a})))
    pipe.set_adapters(["a", "b"], [weight_a, weight_b])
    for (model, _, output), truth in zip(parts, wanted, strict=True):
        assert close(output(model), truth)
        assert model.active_adapters() == ["a", "b"]


def test_one_adapter_can_be_chosen_and_all_disabled(pipe):
    a = unet_output(with_added(make_unet, deltas(pipe.unet, "a")))
    pipe.set_adapters("a")
    assert close(unet_output(pipe.unet), a)
    pipe.disable_lora()
    assert torch.equal(unet_output(pipe.unet), unet_output(make_unet()))
    assert torch.equal(text_output(pipe.text_encoder), text_output(make_text_encoder()))
    pipe.enable_lora()
    assert close(unet_output(pipe.unet), a)


def test_fuse_and_unfuse(pipe):
    pipe.set_adapters(["a", "b"], [0.5, -1.0])
    parts = ((pipe.unet, unet_output), (pipe.text_encoder, text_output))
    before = [output(model) for model, output in parts]
    pipe.fuse_lora(safe_fusing=True)
    assert pipe.fused_loras == {"a", "b"}
    assert all(m.merged for m in pipe.unet.modules() if isinstance(m, SymmetricLinear))
    assert all(close(output(model), truth) for (model, output), truth in zip(parts, before, strict=True))
    pipe.unfuse_lora()
    assert all(close(output(model), truth) for (model, output), truth in zip(parts, before, strict=True))
    pipe.disable_lora()
    assert close(unet_output(pipe.unet), unet_output(make_unet()))


def test_fuse_with_a_scale_and_names_then_unload(pipe):
    truth = unet_output(with_added(make_unet, {n: 0.3 * d for n, d in deltas(pipe.unet, "a").items()}))
    pipe.set_adapters("a")
    pipe.fuse_lora(lora_scale=0.3, adapter_names=["a"])
    assert close(unet_output(pipe.unet), truth)
    pipe.unload_lora_weights()
    assert not any(isinstance(m, SymmetricLinear) for m in pipe.unet.modules())
    assert close(unet_output(pipe.unet), truth)


def test_scale_at_call_time(pipe):
    pipe.set_adapters("a")
    truth = unet_output(with_added(make_unet, {n: 0.4 * d for n, d in deltas(pipe.unet, "a").items()}))
    assert close(unet_output(pipe.unet, cross_attention_kwargs={"scale": 0.4}), truth)
    assert close(unet_output(pipe.unet), unet_output(with_added(make_unet, deltas(pipe.unet, "a"))))


def test_delete_adapters(pipe):
    pipe.set_adapters(["a", "b"])
    truth = unet_output(with_added(make_unet, deltas(pipe.unet, "b")))
    pipe.delete_adapters("a")
    assert pipe.get_list_adapters() == {"unet": ["b"], "text_encoder": ["b"]}
    assert close(unet_output(pipe.unet), truth)
    pipe.delete_adapters("b")
    assert torch.equal(unet_output(pipe.unet), unet_output(make_unet()))


def make_flux():
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        axes_dims_rope=[4, 4, 8],
    ).eval()


def flux_output(model):
    g = torch.Generator().manual_seed(0)
    return model(
        hidden_states=torch.randn(2, 16, 4, generator=g),
        encoder_hidden_states=torch.randn(2, 5, 24, generator=g),
        pooled_projections=torch.randn(2, 16, generator=g),
        timestep=torch.tensor([0.2, 0.8]),
        img_ids=torch.zeros(16, 3),
        txt_ids=torch.zeros(5, 3),
    ).sample


def make_sd3():
    from diffusers import SD3Transformer2DModel

    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=1,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=24,
        pooled_projection_dim=16,
        out_channels=4,
    ).eval()


def sd3_output(model):
    g = torch.Generator().manual_seed(0)
    return model(
        hidden_states=torch.randn(2, 4, 8, 8, generator=g),
        encoder_hidden_states=torch.randn(2, 5, 24, generator=g),
        pooled_projections=torch.randn(2, 16, generator=g),
        timestep=torch.tensor([200.0, 800.0]),
    ).sample


TRANSFORMERS = {"flux": (make_flux, flux_output), "sd3": (make_sd3, sd3_output)}
JOINT = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "proj_mlp"]


@pytest.mark.parametrize("method", CONFIGS)
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_the_tuners_travel_to_other_image_models(kind, method, tmp_path):
    make, output = TRANSFORMERS[kind]
    with torch.no_grad():
        target = output(make()) + 0.1
    model = get_peft_model(make(), CONFIGS[method](r=2, target_modules=JOINT))
    optimizer = torch.optim.AdamW(param_groups(method, model.named_parameters(), 1e-2))
    losses = []
    for step in range(8):
        set_ramp(model, min(1.0, (step + 1) / 2))
        loss = (output(model) - target).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < min(losses[1], losses[0])
    with torch.no_grad():
        trained = output(model)
        model.save_pretrained(tmp_path)
        assert torch.equal(output(PeftModel.from_pretrained(make(), tmp_path)), trained)
        merged = model.merge_and_unload(safe_merge=True)
        assert type(merged) is type(make())
        assert close(output(merged), trained)


@pytest.mark.parametrize("method", METHODS)
def test_unet_and_text_encoder_save_keys_that_peft_loads(method, tmp_path):
    unet = make_unet()
    unet.add_adapter(METHODS[method].config(2, 2.0, UNET, 0.0), "default")
    randomize(unet)
    set_ramp(unet, 0.5)
    wrapped = get_peft_model(make_unet(), METHODS[method].config(2, 2.0, UNET, 0.0))
    wrapped.save_pretrained(tmp_path)
    keys = {f"base_model.model.{key}" for key in get_peft_model_state_dict(unet)}
    assert keys == set(get_peft_model_state_dict(wrapped))


def test_one_config_on_unet_and_text_encoder_is_saved_with_each_ones_own_u(tmp_path):
    shared = CONFIGS["singlora"](r=2, target_modules=["to_q", "q_proj"])
    unet, text_encoder = make_unet(), make_text_encoder()
    for model, u in ((unet, 0.25), (text_encoder, 0.75)):
        model.add_adapter(shared, "default")
        set_ramp(model, u)
    unet.save_lora_adapter(tmp_path)
    with safe_open(tmp_path / "pytorch_lora_weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["lora_adapter_metadata"])["u"] == 0.25
    text_encoder.save_pretrained(tmp_path)
    assert PeftConfig.from_pretrained(tmp_path).u == 0.75
