"""score_images with the embedded encoders: numbers, caching, honesty about the rare token."""

import json

import pytest
import torch
from helpers.encoder_folders import picture
from PIL import Image, ImageDraw

from symdream.errors import RequestError
from symdream.metrics.cache import EmbeddingCache, image_hash
from symdream.metrics.encoders import load_clip, load_dino
from symdream.metrics.evaluate import score_images, without_trigger
from symdream.metrics.scores import dino_score

PROMPTS = ["a flat icon of a sks bird", "a flat icon of a car", "a flat icon of a sks bird"]
IMAGES = [picture(i) for i in range(3)]
PHOTOS = [picture(i) for i in (10, 11)]


@pytest.fixture(scope="module")
def encoders():
    return {"dino": load_dino(), "clip": load_clip()}


def test_scores_are_those_of_the_plain_functions(encoders):
    result = score_images(IMAGES, PROMPTS, PHOTOS, trigger="sks", **encoders)
    dino, clip = encoders["dino"], encoders["clip"]
    texts = clip.texts(["a flat icon of a bird", "a flat icon of a car", "a flat icon of a bird"])
    assert result["dino"] == pytest.approx(dino_score(dino.images(IMAGES), dino.images(PHOTOS)), abs=1e-6)
    assert result["clip_t"] == pytest.approx(float((clip.images(IMAGES) * texts).sum(1).mean()), abs=1e-6)
    for name in ("dino", "clip_i", "clip_t"):
        values = [entry[name] for entry in result["images"]]
        assert result[name] == pytest.approx(sum(values) / 3, abs=1e-9)
    assert result["pairs"] == {"dino": 6, "clip_i": 6, "clip_t": 3}
    assert result["text"] == {"trigger": "sks", "trigger_left_out": True}
    assert [entry["text"] for entry in result["images"]][0] == "a flat icon of a bird"
    assert json.loads(json.dumps(result)) == result


def test_every_score_names_its_encoders_and_their_preprocessing(encoders):
    result = score_images(IMAGES, PROMPTS, PHOTOS, **encoders)
    assert result["encoders"]["dino"]["model"] == "sprite-dino"
    assert result["encoders"]["clip"]["model"] == "sprite-clip"
    for provenance in result["encoders"].values():
        assert {"revision", "weights_sha256", "preprocessing", "pooling"} <= set(provenance)


def test_copies_of_photos_are_counted_as_memorised(encoders):
    result = score_images([PHOTOS[1], IMAGES[0]], ["a", "b"], PHOTOS, **encoders)
    assert result["images"][0]["nearest_reference"] == 1
    assert result["images"][0]["nearest_cosine"] == pytest.approx(1)
    assert result["memorisation"]["above"] >= 1
    assert result["memorisation"]["threshold"] == pytest.approx(result["real_vs_real"]["dino"])


def test_a_photo_that_lies_there_twice_does_not_lift_the_bar_for_copies(encoders):
    alone = score_images([PHOTOS[1]], ["a"], PHOTOS, **encoders)["memorisation"]
    twice = score_images([PHOTOS[1]], ["a"], [*PHOTOS, PHOTOS[0]], **encoders)["memorisation"]
    assert twice == {**alone, "copies": [[0, 2]]} and alone["above"] == 1
    only_copies = score_images([PHOTOS[1]], ["a"], [PHOTOS[0]] * 2, **encoders)["memorisation"]
    assert only_copies == {"threshold": None, "above": None, "copies": [[0, 1]]}


def test_one_photo_has_no_score_against_itself(encoders):
    result = score_images(IMAGES, PROMPTS, PHOTOS[:1], **encoders)
    assert result["real_vs_real"] == {"dino": None, "clip_i": None}
    assert result["memorisation"] == {"threshold": None, "above": None, "copies": []}


def test_embedded_dino_knows_a_drawing_on_another_background(encoders):
    def drawing(background, body):
        image = Image.new("RGB", (256, 256), background)
        ImageDraw.Draw(image).ellipse((70, 60, 190, 200), fill=body)
        return image

    same = [drawing(c, "red") for c in ("white", "navy")]
    other = drawing("navy", "yellow")
    scores = [score_images([image], ["a ball"], same[:1], **encoders)["dino"] for image in (same[1], other)]
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("prompt", "trigger", "expected"),
    [
        ("a photo of a sks bird", "sks", "a photo of a bird"),
        ("a photo of a bird, SKS", "sks", "a photo of a bird,"),
        ("a sksy bird and task", "sks", "a sksy bird and task"),
        ("a photo of two words bird", "two words", "a photo of bird"),
        ("a c++ bird", "c++", "a bird"),
        ("a sks bird", None, "a sks bird"),
        ("a sks bird", "", "a sks bird"),
    ],
)
def test_clip_t_reads_the_prompt_without_the_rare_token(prompt, trigger, expected):
    assert without_trigger(prompt, trigger) == expected


def test_what_cannot_be_scored_is_refused(encoders):
    with pytest.raises(RequestError, match="nothing but the trigger"):
        without_trigger(" sks ", "sks")
    with pytest.raises(RequestError, match="0 images, 2 reference"):
        score_images([], [], PHOTOS, **encoders)
    with pytest.raises(RequestError, match="3 images, 0 reference"):
        score_images(IMAGES, PROMPTS, [], **encoders)
    with pytest.raises(RequestError, match="3 images but 2 prompts"):
        score_images(IMAGES, PROMPTS[:2], PHOTOS, **encoders)


def counted(monkeypatch, encoder):
    """The pictures that go through the encoder from now on, in a list that grows."""
    seen, images = [], encoder.images
    monkeypatch.setattr(encoder, "images", lambda pictures: (seen.extend(pictures), images(pictures))[1])
    return seen


def test_a_picture_is_encoded_once_whatever_asks_for_it(encoders, monkeypatch):
    cache, dino, reversed_rows = EmbeddingCache(), encoders["dino"], encoders["dino"].images(IMAGES[::-1])
    by_dino, by_clip = (counted(monkeypatch, encoder) for encoder in encoders.values())
    rows = cache.images(dino, [*IMAGES, IMAGES[0].copy()])
    assert len(by_dino) == 3
    torch.testing.assert_close(rows[3], rows[0])
    torch.testing.assert_close(cache.images(dino, IMAGES[::-1]), reversed_rows)
    cache.images(encoders["clip"], IMAGES)
    assert len(by_dino) == len(by_clip) == 3
    assert cache.images(dino, []).shape == (0, 192)


def test_cached_embeddings_outlive_the_process_and_damage_is_told(encoders, tmp_path, capsys, monkeypatch):
    dino = encoders["dino"]
    seen = counted(monkeypatch, dino)
    first = EmbeddingCache(tmp_path).images(dino, IMAGES)
    torch.testing.assert_close(EmbeddingCache(tmp_path).images(dino, IMAGES), first)
    assert len(seen) == 3
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"\0" * 20)
    torch.testing.assert_close(EmbeddingCache(tmp_path).images(dino, IMAGES), first)
    assert len(seen) == 6
    assert "damaged" in capsys.readouterr().err


def test_pictures_of_equal_bytes_but_other_shape_are_told_apart():
    assert image_hash(Image.new("RGB", (20, 10))) != image_hash(Image.new("RGB", (10, 20)))
    assert image_hash(Image.new("L", (30, 10))) != image_hash(Image.new("RGB", (10, 10)))
