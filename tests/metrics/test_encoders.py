"""Encoders from folders, the hub's cache and the package, against the models called directly."""

import json

import pytest
import torch
from helpers.encoder_folders import (
    drop_weight,
    picture,
    set_config,
    write_clip,
    write_dinov2,
    write_hub_cache,
    write_pickle_only,
    write_vit,
)
from torch.nn import functional as F

from symdream.errors import RequestError
from symdream.metrics.encoders import load_clip, load_dino
from symdream.metrics.preprocessing import clip_preprocessing, dino_preprocessing

PICTURES = [picture(i) for i in range(3)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    write_vit(root / "vit")
    write_dinov2(root / "dinov2")
    write_clip(root / "clip")
    return root


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_dino_is_the_normalised_cls_token_of_a_vit(models):
    from transformers import ViTModel

    model = ViTModel.from_pretrained(models / "vit").eval()
    with torch.inference_mode():
        cls = model(dino_preprocessing()(PICTURES)).last_hidden_state[:, 0]
    torch.testing.assert_close(load_dino(str(models / "vit")).images(PICTURES), F.normalize(cls, dim=-1))


def test_dinov2_runs_at_224_pixels_though_it_was_made_for_518(models):
    from transformers import Dinov2Model

    model = Dinov2Model.from_pretrained(models / "dinov2").eval()
    with torch.inference_mode():
        cls = model(dino_preprocessing()(PICTURES)).last_hidden_state[:, 0]
    torch.testing.assert_close(load_dino(str(models / "dinov2")).images(PICTURES), F.normalize(cls, dim=-1))


def test_a_vit_for_another_size_interpolates_its_positions(tmp_path):
    assert load_dino(str(write_vit(tmp_path / "vit", image_size=96))).images(PICTURES).shape == (3, 16)


def test_clip_embeds_images_and_texts_as_clipmodel_does(models):
    from transformers import CLIPModel, CLIPTokenizer

    texts = ["a photo of a dog", "a bird"]
    model = CLIPModel.from_pretrained(models / "clip").eval()
    tokens = CLIPTokenizer.from_pretrained(models / "clip")(texts, padding=True, return_tensors="pt")
    with torch.inference_mode():
        out = model(**tokens, pixel_values=clip_preprocessing(224)(PICTURES))
    clip = load_clip(str(models / "clip"))
    torch.testing.assert_close(clip.images(PICTURES), out.image_embeds)
    torch.testing.assert_close(clip.texts(texts), out.text_embeds)


def test_a_larger_clip_is_given_larger_images(tmp_path):
    clip = load_clip(str(write_clip(tmp_path / "clip", image_size=256)))
    assert clip.provenance["preprocessing"]["resize"] == clip.provenance["preprocessing"]["crop"] == 256
    assert clip.images(PICTURES).shape == (3, 12)


def test_batches_do_not_change_embeddings(models):
    dino = load_dino(str(models / "vit"))
    together = dino.images(PICTURES)
    dino.batch_size = 2
    torch.testing.assert_close(dino.images(PICTURES), together)
    assert dino.images([]).shape == (0, 16)


def test_texts_beyond_77_tokens_are_named(models):
    clip = load_clip(str(models / "clip"))
    long = "red " * 100
    assert clip.too_long(["a red bird", long]) == [long]
    torch.testing.assert_close(clip.texts([long]), clip.texts(["red " * 75]))


@pytest.mark.parametrize(("load", "dim"), [(load_dino, 192), (load_clip, 256)])
def test_embedded_encoders_give_unit_rows_and_say_what_they_are(load, dim):
    encoder = load()
    rows = encoder.images(PICTURES)
    assert rows.shape == (3, dim)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))
    assert encoder.is_sprite
    assert encoder.provenance["preprocessing"]["crop"] == 128
    assert len(encoder.provenance["weights_sha256"]) == 64
    json.dumps(encoder.provenance)


def test_embedded_clip_tells_prompts_apart():
    rows = load_clip().texts(["a flat icon of a bird", "a flat icon of a bird", "a glossy icon of a car"])
    assert rows[0] @ rows[1] == pytest.approx(1, abs=1e-6)
    assert rows[0] @ rows[2] < 0.9


def test_a_hub_id_is_read_from_the_cache_with_its_commit(models, hub_cache):
    write_hub_cache(hub_cache, "someone/dino", models / "vit", commit="c" * 40)
    dino = load_dino("someone/dino")
    assert dino.provenance["model"] == "someone/dino"
    assert dino.provenance["revision"] == "c" * 40
    folder = load_dino(str(models / "vit"))
    assert dino.provenance["weights_sha256"] == folder.provenance["weights_sha256"]
    assert folder.provenance["model"] == "folder:vit"
    assert folder.provenance["revision"] is None
    torch.testing.assert_close(dino.images(PICTURES), folder.images(PICTURES))
    assert load_dino("someone/dino@" + "c" * 40).provenance == dino.provenance


def test_the_hubs_conversion_to_safetensors_serves_where_main_is_a_pickle(models, hub_cache, tmp_path):
    write_hub_cache(hub_cache, "someone/dino", write_pickle_only(tmp_path / "pickle"), commit="a" * 40)
    write_hub_cache(hub_cache, "someone/dino", models / "vit", commit="b" * 40, ref="refs/pr/7")
    assert load_dino("someone/dino").provenance["revision"] == "b" * 40


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("facebook/dino-vits16", "not on this machine"),
        ("someone/dino@v9", "not on this machine"),
        ("no such folder", "no such folder"),
        ("./missing/folder", "no such folder"),
        ("dino", "not a hub id"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_sentence_with_a_way_out(hub_cache, name, message):
    for load in (load_dino, load_clip):
        with pytest.raises(RequestError, match=message) as error:
            load(name)
        assert error.value.fix
        assert "\n" not in error.value.what


def test_shards_are_read_and_hashed_together_and_a_missing_one_is_noticed(models, tmp_path):
    from transformers import ViTModel

    ViTModel.from_pretrained(models / "vit").save_pretrained(tmp_path, max_shard_size="30KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    whole, dino = load_dino(str(models / "vit")), load_dino(str(tmp_path))
    torch.testing.assert_close(dino.images(PICTURES), whole.images(PICTURES))
    assert dino.provenance["weights_sha256"] != whole.provenance["weights_sha256"]
    shards[0].unlink()
    with pytest.raises(RequestError, match="holds no complete model.safetensors"):
        load_dino(str(tmp_path))


def test_pickles_are_refused(tmp_path):
    with pytest.raises(RequestError, match="only as a pickle"):
        load_dino(str(write_pickle_only(tmp_path / "vit")))


def test_incomplete_weights_are_refused_instead_of_filled_at_random(tmp_path):
    folder = write_clip(tmp_path / "clip")
    drop_weight(folder, "visual_projection.weight")
    with pytest.raises(RequestError, match="lacks 1 weights of a CLIPModel, visual_projection.weight"):
        load_clip(str(folder))


def test_a_damaged_file_is_named(tmp_path):
    folder = write_vit(tmp_path / "vit")
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(RequestError, match="could not be loaded"):
        load_dino(str(folder))


def test_other_models_are_refused_by_type(models, tmp_path):
    with pytest.raises(RequestError, match="type 'clip'; --dino takes vit or dinov2"):
        load_dino(str(models / "clip"))
    with pytest.raises(RequestError, match="type 'vit'; --clip takes clip"):
        load_clip(str(models / "vit"))
    set_config(write_vit(tmp_path / "vit"), model_type=None)
    with pytest.raises(RequestError, match="type None"):
        load_dino(str(tmp_path / "vit"))
    (tmp_path / "vit" / "config.json").write_text("not json")
    with pytest.raises(RequestError, match="is not a model's config"):
        load_dino(str(tmp_path / "vit"))


def test_a_clip_without_a_tokenizer_is_refused(tmp_path):
    folder = write_clip(tmp_path / "clip")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RequestError, match="no tokenizer"):
        load_clip(str(folder))
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="no complete model.safetensors"):
        load_clip(str(tmp_path / "empty"))
