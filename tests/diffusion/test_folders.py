"""Loading diffusers folders: small models in the real layouts, and everything that can be wrong with a folder."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from helpers.tiny_models import TINY_RESOLUTION, in_two_files, write_tiny_sd
from safetensors.torch import load_file, save_file

from symdream.diffusion.architecture import family_of_folder
from symdream.diffusion.base import load_base
from symdream.diffusion.checks import check_folder
from symdream.diffusion.export_base import export_base
from symdream.diffusion.folders import MissingPart, licence_of
from symdream.diffusion.sampling import make_scheduler, sample
from symdream.errors import RequestError, WorkError

FAMILIES = ("sd1", "sd2", "sdxl")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny é models")
    return {family: write_tiny_sd(root / family, family) for family in FAMILIES}


@pytest.fixture
def folder(tmp_path):
    """A fresh SD 1.x folder to damage."""
    return write_tiny_sd(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\ntags:\n- toy\nlicense: creativeml-openrail-m\n---\n# Card\n", "creativeml-openrail-m"),
        ("---\nlicense: 'mit'\n---\n", "mit"),
        ("---\nlicense: other\n---\n", None),
        ("---\nlicense: Unknown\n---\n", None),
        ("---\nlicense: null\n---\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
        ("---\ntags: toy\n---\nlicense: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("# Card\nlicense: mit\n", None),
        ("", None),
        (None, None),
    ],
)
def test_the_licence_is_the_one_that_the_model_card_names(tmp_path, card, licence):
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert licence_of(tmp_path) == licence


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_loads_and_is_told_apart(folders, family):
    base = load_base(str(folders[family]))
    assert (base.family, base.identity, base.resolution) == (family, f"folder:{family}", TINY_RESOLUTION)
    assert base.prediction_type == ("v_prediction" if family == "sd2" else "epsilon")
    encoders = 2 if family == "sdxl" else 1
    assert len(base.text_encoders) == len(base.tokenizers) == encoders
    assert list(base.components()) == ["unet", "text_encoder", "text_encoder_2"][: 1 + encoders]
    assert len(base.hash) == 64


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_draws_through_its_pipeline(folders, family):
    pipe = load_base(str(folders[family])).pipeline()
    image = pipe("sks bird", num_inference_steps=1, height=TINY_RESOLUTION, width=TINY_RESOLUTION).images[0]
    assert image.size == (TINY_RESOLUTION, TINY_RESOLUTION)


def test_our_loading_gives_the_weights_that_diffusers_own_gives(folders):
    ours = load_base(str(folders["sd1"]))
    theirs = StableDiffusionPipeline.from_pretrained(folders["sd1"], safety_checker=None)
    for name, module in {"vae": ours.vae, **ours.components()}.items():
        for key, tensor in getattr(theirs, name).state_dict().items():
            assert torch.equal(module.state_dict()[key], tensor), (name, key)


def edit(path, **changes):
    """Change a JSON file; a value of None takes its key out."""
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def assert_pipelines_picture(folder, **settings):
    """What `sample` draws by the base in `folder` is what diffusers' own loading and pipeline draw by it."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder)
    generator = torch.Generator().manual_seed(1)
    size = {"width": TINY_RESOLUTION, "height": TINY_RESOLUTION}
    theirs = pipe("a red bird", num_inference_steps=4, guidance_scale=5.0, generator=generator, **size).images
    ours = sample(load_base(str(folder)), ["a red bird"], [1], steps=4, guidance=5.0)
    assert np.abs(np.asarray(ours[0], int) - np.asarray(theirs[0], int)).max() <= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_scheduler_config_that_leaves_out_the_offset_and_clipping_draws_what_diffusers_draws(tmp_path, family):
    folder = write_tiny_sd(tmp_path / family, family)
    # SDXL's own pipeline would clip.
    edit(
        folder / "scheduler" / "scheduler_config.json",
        clip_sample=False if family == "sdxl" else None,
        steps_offset=None,
    )
    assert_pipelines_picture(folder)


@pytest.mark.parametrize("zeros", [True, False, None])
def test_what_sdxl_is_told_without_a_negative_prompt_is_as_its_model_index_says(tmp_path, zeros):
    folder = write_tiny_sd(tmp_path / "xl", "sdxl")
    edit(folder / "model_index.json", force_zeros_for_empty_prompt=zeros)
    assert_pipelines_picture(folder)
    export_base(load_base(str(folder)), tmp_path / "out")
    exported = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert exported["force_zeros_for_empty_prompt"] is (zeros is not False)


@pytest.mark.parametrize("card", ["---\nlicense: mit\n---\n# A bird é\n", None])
def test_the_model_card_is_exported_with_the_base(tmp_path, card):
    folder = write_tiny_sd(tmp_path / "sd1", "sd1")
    if card is not None:
        (folder / "README.md").write_text(card, encoding="utf-8")
    export_base(load_base(str(folder)), tmp_path / "out")
    exported = tmp_path / "out" / "README.md"
    assert (exported.read_text(encoding="utf-8") if exported.exists() else None) == card
    assert load_base(str(tmp_path / "out")).licence == (card and "mit")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "PNDMScheduler"])
def test_no_sampler_clips_latents(tmp_path, family, kind):
    folder = write_tiny_sd(tmp_path / family, family)
    edit(folder / "scheduler" / "scheduler_config.json", clip_sample=None, _class_name=kind)
    base = load_base(str(folder))
    assert make_scheduler(base, "base").config.clip_sample is make_scheduler(base, "ddim").config.clip_sample is False


def test_text_as_wide_as_the_real_sd2_goes_through(tmp_path):
    base = load_base(str(write_tiny_sd(tmp_path / "wide", "sd2", text_width=1024)))
    assert base.unet.config.cross_attention_dim == base.text_encoder.config.hidden_size == 1024
    tokens = base.tokenizer("sks bird", padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.inference_mode():
        answer = base.unet(torch.zeros(1, 4, 8, 8), 10, base.text_encoder(tokens)[0]).sample
    assert torch.isfinite(answer).all()


def test_weights_that_are_there_only_as_fp16_are_found(tmp_path):
    folder = write_tiny_sd(tmp_path / "half", variant="fp16")
    assert not list(folder.glob("unet/diffusion_pytorch_model.safetensors"))
    base = load_base(str(folder))
    assert base.dtype == torch.float32
    assert load_base(str(folder), dtype=torch.float16).text_encoder.dtype == torch.float16


def test_weights_in_shards_are_found_and_a_missing_shard_is_named(folder):
    whole = load_base(str(folder))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    whole.unet.save_pretrained(folder / "unet", max_shard_size="3MB")
    shards = sorted((folder / "unet").glob("*.safetensors"))
    assert len(shards) > 1
    sharded = load_base(str(folder))
    assert all(torch.equal(a, b) for a, b in zip(whole.unet.parameters(), sharded.unet.parameters(), strict=True))
    shards[1].unlink()
    with pytest.raises(RequestError, match=shards[1].name):
        load_base(str(folder))


def test_a_copy_under_another_name_has_the_same_hash(folder):
    first = load_base(str(folder)).hash
    moved = folder.rename(folder.with_name("other"))
    assert load_base(str(moved)).hash == first
    assert load_base(str(write_tiny_sd(folder, seed=1))).hash != first


def test_a_truncated_weight_file_is_named_with_its_size(folder):
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(RequestError, match="truncated"):
        load_base(str(folder))
    [finding] = check_folder(folder)
    assert "truncated" in finding.problem


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 400, b"\x10" + b"\0" * 7 + b"{not json at all"])
def test_a_weight_file_that_is_none_is_refused(folder, content):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(content)
    with pytest.raises(RequestError, match="not a safetensors file"):
        load_base(str(folder))


def test_a_pickle_under_a_safetensors_name_is_refused_as_a_pickle(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(RequestError, match="is a pickle"):
        load_base(str(folder))


@pytest.mark.parametrize("suffix", [".bin", ".ckpt"])
def test_a_folder_with_pickles_only_is_refused(folder, suffix):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(suffix))
    with pytest.raises(RequestError, match="is a pickle"):
        load_base(str(folder))


@pytest.mark.parametrize(
    "missing",
    [
        "unet/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "tokenizer/tokenizer.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
    ],
)
def test_a_missing_part_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(RequestError) as caught:
        load_base(str(folder))
    assert missing.split("/")[1] in str(caught.value)


@pytest.mark.parametrize("missing", ["text_encoder_2/config.json", "tokenizer_2/tokenizer.json"])
def test_a_missing_part_of_sdxls_second_text_encoder_is_named(tmp_path, missing):
    folder = write_tiny_sd(tmp_path / "xl", "sdxl")
    (folder / missing).unlink()
    with pytest.raises(RequestError) as caught:
        load_base(str(folder))
    assert missing.split("/")[1] in str(caught.value) and missing.split("/")[0] in str(caught.value)


def test_a_tokenizer_of_vocabulary_and_merges_is_the_same_and_half_of_it_none(folder):
    """As the repositories of SD 1.5 and SDXL have it."""
    text, place = "a red bird, sks", folder / "tokenizer"
    tokens = load_base(str(folder)).tokenizer(text).input_ids
    in_two_files(place)
    assert load_base(str(folder)).tokenizer(text).input_ids == tokens
    for name in ("merges.txt", "vocab.json"):
        content = (place / name).read_text()
        (place / name).unlink()
        with pytest.raises(MissingPart, match="tokenizer is incomplete: it needs"):
            load_base(str(folder))
        (place / name).write_text(content)


def test_weights_in_full_precision_are_taken_where_both_are_there(folder):
    weights = load_base(str(folder)).unet.state_dict()
    write_tiny_sd(folder.parent / "other", variant="fp16", seed=1)
    for part in ("unet", "vae", "text_encoder"):
        [half] = (folder.parent / "other" / part).glob("*.fp16.safetensors")
        half.rename(folder / part / half.name)
    assert all(torch.equal(weights[name], p) for name, p in load_base(str(folder)).unet.state_dict().items())


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(RequestError, match="no model_index.json"):
        load_base(str(tmp_path))


def test_an_inpainting_unet_is_refused(tmp_path):
    folder = write_tiny_sd(tmp_path / "inpaint", in_channels=9)
    with pytest.raises(RequestError, match="inpainting"):
        load_base(str(folder))


@pytest.mark.parametrize("pipeline", ["FluxPipeline", "StableDiffusion3Pipeline", "PixArtAlphaPipeline"])
def test_other_architectures_are_refused_by_what_they_are(tmp_path, pipeline):
    index = {"_class_name": pipeline, "transformer": ["diffusers", "Transformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(RequestError, match=pipeline):
        load_base(str(tmp_path))


def test_broken_json_is_named(folder):
    (folder / "model_index.json").write_text("{")
    with pytest.raises(RequestError, match="model_index.json is not valid JSON"):
        load_base(str(folder))
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(RequestError, match="model_index.json holds no JSON object"):
        load_base(str(folder))


def test_a_scheduler_that_diffusers_does_not_have_is_named(folder):
    edit(folder / "scheduler" / "scheduler_config.json", _class_name="MyScheduler")
    with pytest.raises(WorkError, match="no scheduler of diffusers: 'MyScheduler'"):
        load_base(str(folder))


def test_weights_of_other_shapes_than_the_config_end_in_one_error_of_ours(folder):
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["cross_attention_dim"] = 48
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match=r"of its weights in a wrong shape, .*\[32, 32\] instead of \[32, 48\]"):
        load_base(str(folder))


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder", "text_encoder_2"])
def test_a_part_that_lacks_weights_is_refused_and_not_filled_with_random_numbers(tmp_path, part):
    folder = write_tiny_sd(tmp_path / "xl", "sdxl")
    [file] = (folder / part).glob("*.safetensors")
    state = load_file(file)
    gone = sorted(key for key in state if key.endswith(".weight"))[-1]
    state.pop(gone)
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(RequestError, match=f"The {part} of this base lacks 1 of its weights"):
        load_base(str(folder))


def test_a_text_encoder_of_another_kind_is_refused_by_what_it_is(folder):
    edit(folder / "text_encoder" / "config.json", model_type="xlm-roberta")
    with pytest.raises(RequestError, match="text_encoder is a xlm-roberta, not CLIP's"):
        load_base(str(folder))


@pytest.mark.parametrize(
    ("file", "changes", "told"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "predicts 'sample'"),
        ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
        ("scheduler/scheduler_config.json", {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEuler"),
        ("vae/config.json", {"latents_mean": [0.1] * 4}, "shifts its latents"),
        ("vae/config.json", {"latents_std": [2.0] * 4}, "shifts its latents"),
    ],
)
def test_what_is_trained_in_another_way_is_refused(folder, file, changes, told):
    edit(folder / file, **changes)
    with pytest.raises(RequestError, match=told):
        load_base(str(folder))


def test_values_that_say_what_is_usual_are_no_obstacle(folder):
    edit(folder / "vae" / "config.json", latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    edit(folder / "text_encoder" / "config.json", model_type=None)
    assert load_base(str(folder)).family == "sd1"


def test_a_sample_size_of_two_sides_is_taken_if_they_are_the_same(folder):
    edit(folder / "unet" / "config.json", sample_size=[8, 8])
    assert load_base(str(folder)).resolution == TINY_RESOLUTION
    edit(folder / "unet" / "config.json", sample_size=[8, 16])
    with pytest.raises(RequestError, match="square pictures"):
        load_base(str(folder))


def test_a_tokenizer_that_tells_no_limit_has_that_of_its_text_encoder(folder):
    for file in (folder / "tokenizer").iterdir():
        if file.name != "tokenizer.json":
            file.unlink()
    base = load_base(str(folder))
    assert base.tokenizer.model_max_length == 77
    assert len(sample(base, ["a red bird " * 60], [0], steps=1)) == 1


@pytest.mark.parametrize("entry", [None, [], [None, None]])
def test_a_model_index_without_a_first_text_encoder_is_told(entry):
    index = {"_class_name": "StableDiffusionXLPipeline", "text_encoder": entry}
    unet = {"_class_name": "UNet2DConditionModel", "addition_embed_type": "text_time"}
    with pytest.raises(RequestError, match="refiner"):
        family_of_folder(index, unet, "here")
