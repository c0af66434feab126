"""The embedded base as it is shipped; nothing here depends on the values of its weights."""

import shutil

import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPModel, ViTModel

from symdream.diffusion.base import load_base
from symdream.diffusion.checks import check_sums
from symdream.diffusion.embedded import load_transformers_part, sprite_folder
from symdream.diffusion.export_base import export_base
from symdream.diffusion.hashes import file_sha256, weights_hash
from symdream.diffusion.int8 import SHARD_BYTES
from symdream.errors import RequestError


@pytest.fixture(scope="module")
def sprite():
    return load_base("sprite")


def test_sprite_is_described_in_full(sprite):
    assert (sprite.name, sprite.identity, sprite.family) == ("sprite", "sprite", "sd1")
    assert (sprite.prediction_type, sprite.resolution) == ("epsilon", 128)
    assert sprite.defaults == {"steps": 25, "guidance": 4.0}
    assert list(sprite.components()) == ["unet", "text_encoder"]
    assert sprite.dtype == torch.float32
    assert not any(module.training for module in (sprite.unet, sprite.vae, sprite.text_encoder))


def test_every_weight_is_real_and_finite(sprite):
    for module in (sprite.unet, sprite.vae, sprite.text_encoder):
        for name, parameter in module.named_parameters():
            assert not parameter.is_meta, name
            assert torch.isfinite(parameter).all(), name


def test_the_trigger_is_one_token(sprite):
    assert len(sprite.tokenizer("sks").input_ids) == 3  # with start and end


def test_the_prompt_reaches_the_unet_and_the_vae_gives_its_picture_back(sprite):
    tokens = sprite.tokenizer("a 3d render of a bird", padding="max_length", max_length=77, return_tensors="pt")
    with torch.inference_mode():
        text = sprite.text_encoder(tokens.input_ids)[0]
        noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
        assert sprite.unet(noise, 500, text).sample.shape == (1, 4, 32, 32)
        picture = torch.zeros(1, 3, 128, 128)
        picture[:, 0, 32:96, 32:96] = 1
        again = sprite.vae.decode(sprite.vae.encode(picture).latent_dist.mean).sample
    assert (again - picture).abs().mean() < 0.1


def test_the_pipeline_runs_the_very_modules(sprite):
    pipe = sprite.pipeline()
    assert pipe.unet is sprite.unet
    assert pipe.text_encoder is sprite.text_encoder
    image = pipe("a flat icon of a cat", num_inference_steps=1, height=128, width=128).images[0]
    assert image.size == (128, 128)


def test_clip_and_dino_load_with_no_weight_missing():
    clip = load_transformers_part(CLIPModel, sprite_folder("sprite-clip"))
    dino = load_transformers_part(ViTModel, sprite_folder("sprite-dino"), add_pooling_layer=False)
    pixels = torch.zeros(1, 3, 128, 128)
    with torch.inference_mode():
        assert dino(pixels).last_hidden_state.shape == (1, 65, 192)
        assert clip.vision_model(pixels).last_hidden_state.shape == (1, 65, 192)
    # A weight made up by the library instead of read would differ between two loads.
    again = load_transformers_part(CLIPModel, sprite_folder("sprite-clip"))
    for (name, first), second in zip(clip.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(first, second), name


def test_the_hash_follows_the_weights_and_nothing_else(sprite, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(sprite_folder("sprite-diffusion"), copy)

    def hashed():
        return weights_hash(copy, copy.glob("*/*.safetensors"))

    assert hashed() == sprite.hash
    (copy / "unet" / "config.json").write_text("{}")
    assert hashed() == sprite.hash
    weights = next((copy / "vae").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert hashed() != sprite.hash


def test_half_precision_is_honoured():
    base = load_base("sprite", dtype=torch.bfloat16)
    for module in (base.unet, base.vae, base.text_encoder):
        assert {p.dtype for p in module.parameters()} == {torch.bfloat16}


def test_shards_stay_small_and_the_sums_name_every_file():
    shards = list(sprite_folder().glob("sprite-*/**/*.safetensors"))
    assert len(shards) >= 6
    assert all(shard.stat().st_size <= SHARD_BYTES + 100_000 for shard in shards)
    listed = {line.split()[1] for line in (sprite_folder() / "SHA256SUMS").read_text().splitlines()}
    there = {p.relative_to(sprite_folder()).as_posix() for p in sprite_folder().glob("sprite-*/**/*") if p.is_file()}
    assert listed == there


def test_checking_sums_names_the_file_that_changed_and_the_one_that_is_gone(tmp_path):
    for name in ("same", "changed", "gone"):
        (tmp_path / name).write_text(name)
    sums = [f"{file_sha256(tmp_path / name)}  {name}\n" for name in ("same", "changed", "gone")]
    (tmp_path / "SHA256SUMS").write_text("".join(sums))
    (tmp_path / "changed").write_text("other")
    (tmp_path / "gone").unlink()
    problems = {finding.file: finding.problem for finding in check_sums(tmp_path)}
    assert problems == {"same": None, "changed": "differs from SHA256SUMS", "gone": "is missing"}


def test_an_export_loads_in_diffusers_and_predicts_the_same(sprite, tmp_path):
    folder = tmp_path / "dir é"
    export_base(sprite, folder)
    pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None)
    for mine, theirs in ((sprite.unet, pipe.unet), (sprite.vae, pipe.vae), (sprite.text_encoder, pipe.text_encoder)):
        for name, tensor in mine.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert pipe.tokenizer("sks bird").input_ids == sprite.tokenizer("sks bird").input_ids
    assert (folder / "LICENSES.md").is_file()
    again = load_base(str(folder))
    assert (again.family, again.prediction_type, again.resolution) == ("sd1", "epsilon", 128)
    assert [p.name for p in tmp_path.iterdir()] == ["dir é"]


def test_an_existing_folder_is_kept_unless_asked(sprite, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "precious").touch()
    with pytest.raises(RequestError, match="--overwrite"):
        export_base(sprite, folder)
    assert (folder / "precious").exists()
    with pytest.raises(RequestError, match="is not a base"):
        export_base(sprite, folder, overwrite=True)
    assert (folder / "precious").exists()
    (folder / "precious").rename(folder / "model_index.json")
    export_base(sprite, folder, overwrite=True)
    assert (folder / "unet").is_dir()


def test_an_export_that_fails_leaves_the_old_folder(sprite, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model_index.json").write_text("precious")

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", full_disk)
    with pytest.raises(Exception, match="No space left"):
        export_base(sprite, folder, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (folder / "model_index.json").read_text() == "precious"
