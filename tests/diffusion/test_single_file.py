"""Single-file checkpoints: written in the original layout by an independent mapping, loaded without network."""

import re

import numpy as np
import pytest
import torch
from helpers.tiny_models import (
    CLIP_VOCABULARY,
    SPRITE_VOCABULARY,
    tiny_parts,
    tiny_scheduler,
    write_tiny_single_file,
)
from safetensors.torch import load_file, save_file

from symdream.diffusion.base import load_base
from symdream.diffusion.checks import check_source
from symdream.diffusion.conditioning import encode, tokenize
from symdream.diffusion.export_base import export_base
from symdream.diffusion.hashes import file_sha256
from symdream.diffusion.names import resolve_name
from symdream.diffusion.prediction import measured_prediction
from symdream.diffusion.sampling import sample
from symdream.errors import RequestError
from symdream.interop.merge import write_merged

FAMILIES = ("sd1", "sd2", "sdxl")
UNET, OPENAI = "model.diffusion_model.", "cond_stage_model.transformer.text_model."
# What shapes cannot tell or what is only the default picture size.
FREE_KEYS = {"sample_size", "_class_name", "_use_default_values", "_name_or_path", "_diffusers_version"}


def as_list(value):
    return list(value) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("family", FAMILIES)
def test_every_weight_and_every_setting_comes_back(tmp_path, family):
    parts = tiny_parts(family, vocabulary=CLIP_VOCABULARY, seed=3)
    path = write_tiny_single_file(tmp_path / "dir é" / f"{family}.safetensors", family, parts=parts)
    base = load_base(str(path))
    assert (base.family, base.identity, base.hash) == (family, f"file:{family}.safetensors", file_sha256(path))
    loaded = {"vae": base.vae, **base.components()}
    assert loaded.keys() == parts.keys()
    for name, module in parts.items():
        state, expected = loaded[name].state_dict(), module.state_dict()
        assert state.keys() == expected.keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in expected.items()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_configs_built_from_shapes_are_those_of_the_model(tmp_path, family):
    parts = tiny_parts(family, vocabulary=CLIP_VOCABULARY)
    base = load_base(str(write_tiny_single_file(tmp_path / "x.safetensors", family, parts=parts)))
    for built, original in ((base.unet, parts["unet"]), (base.vae, parts["vae"])):
        for key in set(original.config) - FREE_KEYS - {"transformer_layers_per_block"}:
            assert as_list(built.config[key]) == as_list(original.config[key]), key
    heads = [m.heads for m in base.unet.modules() if hasattr(m, "heads")]
    assert heads == [m.heads for m in parts["unet"].modules() if hasattr(m, "heads")]
    for built, original in zip(base.text_encoders, [parts[k] for k in parts if k.startswith("text")], strict=True):
        for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "hidden_act", "intermediate_size"):
            assert getattr(built.config, key) == getattr(original.config, key), key
    assert dict(base.scheduler.config) == dict(tiny_scheduler(base.prediction_type).config)


def test_a_prompt_gives_what_the_original_modules_give(tmp_path):
    parts = tiny_parts("sd1", vocabulary=CLIP_VOCABULARY)
    base = load_base(str(write_tiny_single_file(tmp_path / "x.safetensors", parts=parts)))
    tokens = base.tokenizer("a photo of a sks dog", padding="max_length", max_length=77, return_tensors="pt").input_ids
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours = base.unet(noise, 400, base.text_encoder(tokens)[0]).sample
        theirs = parts["unet"](noise, 400, parts["text_encoder"](tokens)[0]).sample
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_sdxls_second_text_encoder_pads_with_zeros_and_answers_at_the_end_of_the_text(tmp_path):
    parts = tiny_parts("sdxl", vocabulary=CLIP_VOCABULARY)
    base = load_base(str(write_tiny_single_file(tmp_path / "x.safetensors", "sdxl", parts=parts)))
    # Stability-AI/generative-models: CLIP-L pads with the end of the text, OpenCLIP's bigG with 0.
    first, second = tokenize(base, ["a sks dog"])
    assert first[0, :6].tolist() == [49406, 320, 48136, 1929, 49407, 49407]
    assert second[0, :6].tolist() == [49406, 320, 48136, 1929, 49407, 0]
    with torch.inference_mode():
        text = encode(base, (first, second))
        states = parts["text_encoder_2"].text_model(second).last_hidden_state
        # The end of the text has the highest id: there OpenAI's and OpenCLIP's own code reads the pooled state.
        pooled = parts["text_encoder_2"].text_projection(states[0, int(second[0].argmax())])
    torch.testing.assert_close(text.pooled[0], pooled, rtol=1e-4, atol=1e-5)


def test_the_tokenizer_is_clips(tmp_path):
    base = load_base(str(write_tiny_single_file(tmp_path / "x.safetensors")))
    # Known ids of openai/clip-vit-large-patch14.
    assert base.tokenizer("a photo of a dog").input_ids == [49406, 320, 1125, 539, 320, 1929, 49407]
    assert base.tokenizer("sks").input_ids == [49406, 48136, 49407]
    assert (base.tokenizer.pad_token_id, base.tokenizer.model_max_length) == (49407, 77)
    second = load_base(str(write_tiny_single_file(tmp_path / "y.safetensors", "sd2")))
    assert second.tokenizer.pad_token_id == 0  # "!", as SD 2.x pads


@pytest.mark.parametrize(
    ("family", "metadata", "expected"),
    [
        ("sd1", None, "epsilon"),
        ("sd1", {"modelspec.prediction_type": "v"}, "v_prediction"),
        ("sd2", {"modelspec.prediction_type": "epsilon"}, "epsilon"),
        ("sd2", None, "v_prediction"),
    ],
)
def test_the_prediction_type_is_the_files_word_or_measured(tmp_path, family, metadata, expected):
    base = load_base(str(write_tiny_single_file(tmp_path / "x.safetensors", family, metadata=metadata)))
    assert base.prediction_type == base.scheduler.config.prediction_type == expected
    # Of SD 2.x, 512-base predicts the noise and 768 predicts v.
    assert base.resolution == (768 if (family, expected) == ("sd2", "v_prediction") else 512)


def test_a_marker_tensor_says_v_prediction(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors", "sdxl")
    save_file(load_file(path) | {"v_pred": torch.zeros(0)}, path)
    assert load_base(str(path)).prediction_type == "v_prediction"


def test_a_marker_tensor_says_that_the_schedule_ends_in_noise_alone(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors", "sdxl")
    markers = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    save_file(load_file(path) | markers, path)
    base = load_base(str(path))
    assert base.scheduler.config.rescale_betas_zero_snr and base.scheduler.alphas_cumprod[-1] == 0

    folder, merged = tmp_path / "folder", tmp_path / "merged.safetensors"
    export_base(base, folder)
    write_merged(load_base(str(folder)), merged, {}, dtype=torch.float32, overwrite=False)
    pictures = [sample(load_base(str(p)), ["a toy"], [1], steps=4, width=64, height=64)[0] for p in (folder, merged)]
    assert np.abs(np.subtract(*(np.asarray(picture, int) for picture in pictures))).max() <= 1


def test_a_noise_predictor_keeps_its_schedule_whatever_marker_it_has(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors")
    save_file(load_file(path) | {"ztsnr": torch.zeros(0)}, path)
    base = load_base(str(path))
    torch.testing.assert_close(base.scheduler.alphas_cumprod, tiny_scheduler("epsilon").alphas_cumprod)


def test_a_file_of_mixed_number_formats_is_loaded_in_the_one_asked_for_and_not_in_training(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors", "sd2")
    save_file({name: weight.half() if weight.dim() > 1 else weight for name, weight in load_file(path).items()}, path)
    base = load_base(str(path))  # what it predicts is measured on the way
    for part in (base.unet, base.vae, base.text_encoder):
        assert {p.dtype for p in part.parameters()} == {torch.float32}
        assert not any(module.training for module in part.modules())


def test_a_trained_noise_predictor_is_measured_as_one():
    assert measured_prediction(load_base("sprite").unet) == "epsilon"


def changed(path, drop=(), add=None):
    state = {key: value for key, value in load_file(path).items() if not key.startswith(tuple(drop) or "\0")}
    save_file(state | (add or {}), path)
    return str(path)


def test_an_inpainting_file_is_refused(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors", in_channels=9)
    with pytest.raises(RequestError, match="inpainting"):
        load_base(str(path))


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("model.diffusion_model.double_blocks.0.img_attn.qkv.weight", "Flux"),
        ("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight", "Stable Diffusion 3"),
        ("control_model.input_blocks.0.0.weight", "ControlNet"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "LoRA adapter"),
        ("down_blocks.0.resnets.0.conv1.weight", "one component in diffusers' layout"),
        ("something.else", "not a Stable Diffusion checkpoint"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path, key, kind):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.zeros(2, 2)}, path)
    with pytest.raises(RequestError, match=kind):
        load_base(str(path))


def test_the_sdxl_refiner_is_refused(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors", "sdxl")
    state = {k.replace("embedders.1.", "embedders.0."): v for k, v in load_file(path).items() if "embedders.0" not in k}
    save_file(state, path)
    with pytest.raises(RequestError, match="refiner"):
        load_base(str(path))


def test_a_missing_vae_or_text_encoder_is_told(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors")
    with pytest.raises(RequestError, match="no VAE"):
        load_base(changed(path, drop=["first_stage_model."]))
    path = write_tiny_single_file(tmp_path / "y.safetensors")
    with pytest.raises(RequestError, match="no text encoder"):
        load_base(changed(path, drop=["cond_stage_model."]))


@pytest.mark.parametrize(
    ("family", "weight", "part", "named"),
    [
        ("sd1", UNET + "output_blocks.3.0.in_layers.2.weight", "unet", "up_blocks.1.resnets.0.conv1.weight"),
        ("sd1", UNET + "input_blocks.3.0.op.bias", "unet", "down_blocks.0.downsamplers.0.conv.bias"),
        ("sd1", UNET + "output_blocks.2.1.conv.bias", "unet", "output_blocks.2.1.conv.bias"),
        ("sd1", UNET + "middle_block.1.proj_in.weight", "unet", UNET + "middle_block.1.proj_in.weight"),
        ("sdxl", UNET + "label_emb.0.2.bias", "unet", "label_emb.0.2.bias"),
        ("sd1", "first_stage_model.decoder.conv_in.weight", "vae", "decoder.conv_in.weight"),
        ("sd1", f"{OPENAI}encoder.layers.0.mlp.fc2.weight", "text_encoder", "encoder.layers.0.mlp.fc2.weight"),
        ("sd1", f"{OPENAI}encoder.", "text_encoder", "encoder.layers.0.mlp.fc1.weight"),
        ("sd2", "cond_stage_model.model.ln_final.bias", "text_encoder", "final_layer_norm.bias"),
        ("sdxl", "conditioner.embedders.1.model.text_projection", "text_encoder_2", "text_projection"),
    ],
)
def test_a_weight_that_lacks_is_named_by_check_and_by_loading(tmp_path, capfd, family, weight, part, named):
    path = write_tiny_single_file(tmp_path / "x.safetensors", family)
    changed(path, drop=[weight])
    [finding] = check_source(resolve_name(str(path)))
    with pytest.raises(RequestError, match=rf"^The {part} in x.safetensors lacks (1 of its weights, )?{named}") as told:
        load_base(str(path))
    assert told.value.where == str(path) and "get the file again" in told.value.fix
    assert finding.problem == " ".join(str(told.value).split())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("weight", "told"),
    [
        (UNET + "input_blocks.0.0.bias", r"unet .* wrong shape, conv_in.bias first: \[5\] instead of \[32\]"),
        ("first_stage_model.decoder.conv_in.bias", r"vae .* decoder.conv_in.bias first: \[5\] instead of \[32\]"),
        (f"{OPENAI}final_layer_norm.bias", r"text_encoder .* final_layer_norm.bias first: \[5\] instead of \[32\]"),
        (UNET + "middle_block.1.transformer_blocks.0.attn2.to_k.weight", "unet in x.safetensors does not fit"),
        (UNET + "input_blocks.1.0.out_layers.3.weight", "unet in x.safetensors does not fit"),
    ],
)
def test_a_weight_of_another_shape_is_named_by_check_and_by_loading(tmp_path, weight, told):
    path = write_tiny_single_file(tmp_path / "x.safetensors")
    changed(path, add={weight: torch.zeros(5)})
    [finding] = check_source(resolve_name(str(path)))
    assert re.search(told, finding.problem)
    with pytest.raises(RequestError, match=told):
        load_base(str(path))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_file_is_right_with_whatever_else_it_holds(tmp_path, family):
    path = write_tiny_single_file(tmp_path / "x.safetensors", family)
    extra = ["model_ema.decay", "betas"]
    if family == "sd1":
        extra += [OPENAI + "embeddings.position_ids", "cond_stage_model.transformer.text_projection.weight"]
    changed(path, add={name: torch.zeros(2, 2) for name in extra})
    [finding] = check_source(resolve_name(str(path)))
    assert (finding.how, finding.problem) == (f"header: {family}", None)
    assert load_base(str(path)).family == family


def test_another_tokenizers_vocabulary_is_told_instead_of_mistaken(tmp_path):
    parts = tiny_parts("sd1", vocabulary=SPRITE_VOCABULARY)
    path = write_tiny_single_file(tmp_path / "x.safetensors", parts=parts)
    with pytest.raises(RequestError, match="tokenizer of 2,018 tokens"):
        load_base(str(path))
    [finding] = check_source(resolve_name(str(path)))
    assert "tokenizer of 2,018 tokens" in finding.problem


def test_a_truncated_file_is_told_with_both_sizes(tmp_path):
    path = write_tiny_single_file(tmp_path / "x.safetensors")
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[: whole // 2])
    with pytest.raises(RequestError, match=rf"truncated: {whole // 2:,} bytes of at least {whole:,}"):
        load_base(str(path))
