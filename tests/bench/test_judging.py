"""Scores of pictures whose answer is known: the photos themselves, the true subject, other subjects, empty pictures."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.runs import make_photos
from PIL import Image

from symdream.bench.judging import Judge, mean_scores
from symdream.bench.subjects import BenchSubject, read_subjects
from symdream.data.images import read_image
from symdream.errors import RequestError
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import load_clip, load_dino


@pytest.fixture(scope="module")
def judges():
    judge = Judge(load_dino("sprite"), load_clip("sprite"), EmbeddingCache())
    return {
        name: judge.of(subject)
        for name, subject in read_subjects(None, embedded=True).items()
        if name in ("fox", "lion")
    }


def test_the_true_subject_scores_high_and_another_low(judges):
    fox, lion = judges["fox"], judges["lion"]
    prompts = fox.subject.prompts[:4]
    ideals = [read_image(fox.subject.ideals[prompt]) for prompt in prompts]
    true = mean_scores(fox.rows(ideals, prompts, [0] * 4))
    other = mean_scores(fox.rows(list(lion.photos.values())[:4], prompts, [0] * 4))
    assert true["dino_matched"] == pytest.approx(1, abs=1e-4)  # each is the picture it is matched with
    for score in ("dino", "dino_foreground", "dino_matched"):
        assert true[score] > 0.6 > 0.4 > other[score]
    assert true["clip_t"] > other["clip_t"]


def test_what_lies_beside_the_photos_has_a_hash_of_its_own(judges, tmp_path):
    def beside():
        return judges["fox"].judge.of(BenchSubject("toy", tmp_path, "toy", ["a {subject}"], [])).beside_hash

    make_photos(tmp_path, count=2)
    assert beside() is None  # so that folders begun before it was told stay what they are
    with Image.open(tmp_path / "00.png") as photo:
        photo.convert("RGBA").save(tmp_path / "00.png")
    assert beside() is None  # opaque all over: no mask
    (tmp_path / "00.txt").write_text("a photo of {subject}")
    captioned = beside()
    (tmp_path / "00.txt").write_text(" a photo  of sks toy\n")
    assert beside() == captioned  # the text that is learned
    Image.new("L", (80, 64), 255).save(tmp_path / "00_mask.png")
    masked = beside()
    Image.new("L", (80, 64), 200).save(tmp_path / "00_mask.png")
    assert len({None, captioned, masked, beside()}) == 4
    assert judges["fox"].beside_hash != judges["lion"].beside_hash


def test_masks_of_another_size_or_cut_out_of_the_photo_show_the_same_subject(judges, tmp_path):
    fox = judges["fox"]
    photos = [(name.replace("png", "jpg"), photo) for name, photo in fox.photos.items()]
    (tmp_path / "masks").mkdir()
    files = {Path(name).stem: tmp_path / "masks" / f"{Path(name).stem}.png" for name, _ in photos}
    judge = fox.judge.of(replace(fox.subject, folder=tmp_path, masks=files))
    for (name, photo), mask in zip(photos, fox.masks.values(), strict=True):
        photo.save(tmp_path / name, quality=100, subsampling=0)
        mask.resize((photo.width * 2, photo.height * 2)).save(files[Path(name).stem])
    for found, true, cutout in zip(judge.masks.values(), fox.masks.values(), judge.cutouts, strict=True):
        assert np.abs(np.asarray(found, int) - np.asarray(true, int)).mean() < 2
        left, top, right, bottom = true.getbbox()
        assert cutout.width == pytest.approx(1.2 * max(right - left, bottom - top), abs=4)
    for (name, photo), mask in zip(photos, fox.masks.values(), strict=True):
        photo.putalpha(mask)
        photo.save(files[Path(name).stem])  # as programs that take the background away leave it
        photo.putalpha(255)
    again = fox.judge.of(judge.subject)
    for name in again.photos:
        assert np.array_equal(again.masks[name], fox.masks[name.replace("jpg", "png")])
    mask.resize((40, 128)).save(files["00"])
    with pytest.raises(RequestError, match="00.png is 40 × 128, its photo"):
        _ = fox.judge.of(judge.subject).beside_hash


def test_a_photo_is_memorised_and_its_own_nearest(judges):
    fox = judges["fox"]
    names, photos = zip(*fox.photos.items(), strict=True)
    rows = fox.rows(photos, [fox.subject.prompts[0]] * len(photos), list(range(len(photos))))
    assert [row["nearest_photo"] for row in rows] == list(names)
    assert all(row["memorised"] == 1 and row["nearest_cosine"] == pytest.approx(1, abs=1e-4) for row in rows)
    assert [row["image_seed"] for row in rows] == list(range(len(photos)))


def test_real_against_real_has_no_self_pairs(judges):
    assert 0.5 < judges["fox"].real()["dino"] < 0.999


def test_an_empty_picture_has_no_foreground_and_no_share_in_its_mean(judges):
    fox = judges["fox"]
    pictures = [Image.new("RGB", (128, 128), "navy"), next(iter(fox.photos.values()))]
    rows = fox.rows(pictures, fox.subject.prompts[:2], [0, 0])
    assert rows[0]["dino_foreground"] is None and rows[1]["dino_foreground"] > 0.8
    assert mean_scores(rows)["dino_foreground"] == rows[1]["dino_foreground"]


def test_a_prompt_without_an_ideal_picture_has_no_matched_score(judges):
    [row] = judges["fox"].rows([next(iter(judges["fox"].photos.values()))], ["a {subject} at sea"], [0])
    assert row["dino_matched"] is None and mean_scores([row])["dino_matched"] is None


def test_diversity_and_drift(judges):
    fox, photos = judges["fox"], list(judges["fox"].photos.values())
    assert fox.diversity([photos[0]] * 3) == pytest.approx(0, abs=1e-5) and fox.diversity(photos[:1]) is None
    assert fox.diversity([photos[0], *judges["lion"].photos.values()]) > 0.1
    assert fox.unchanged(photos, photos) == pytest.approx(1, abs=1e-5) and fox.unchanged([], []) is None
    assert fox.unchanged(photos, list(judges["lion"].photos.values())) < 0.6
