import pytest
from helpers.encoder_folders import picture, write_vit

from symdream.config import Subject
from symdream.metrics.class_drift import class_pairs, class_scores, without_subject
from symdream.metrics.encoders import load_dino
from symdream.metrics.prompts import Prompt

BIRD = Subject(images="photos", class_noun="bird", trigger="sks")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a {subject} in the snow", "a bird in the snow"),
        ("a sks bird in the snow", "a bird in the snow"),
        ("a SKS  bird in the snow", "a bird in the snow"),
        ("a sks in the snow", "a bird in the snow"),
        ("a {subject} beside sksy things", "a bird beside sksy things"),
    ],
)
def test_a_class_prompt_asks_for_the_class_without_the_trigger(prompt, expected):
    assert without_subject(prompt, BIRD) == expected


def test_class_pictures_take_every_prompt_before_another_seed():
    prompts = [Prompt("a {subject} here"), Prompt("a {subject} there")]
    here, there = "a bird here", "a bird there"
    assert class_pairs(BIRD, prompts, 5, 3) == [(here, 5), (there, 5), (here, 6)]
    assert class_pairs(BIRD, prompts, 5, 1) == [(here, 5)]
    assert class_pairs(BIRD, prompts, 5, 0) == []


def test_drift_and_pres_are_the_mean_cosines_of_their_pairs(tmp_path):
    dino = load_dino(str(write_vit(tmp_path / "vit")), device="cpu")
    before, after, photos = [[picture(seed) for seed in seeds] for seeds in ((0, 1), (2, 1), (3, 4, 5))]
    pairs = [("a bird here", 0), ("a bird there", 0)]
    found = class_scores(before, after, pairs, photos, dino=dino)
    x, y, ref = (dino.images(images).double() for images in (before, after, photos))
    x, y, ref = (rows / rows.norm(dim=1, keepdim=True) for rows in (x, y, ref))
    assert found["drift"] == pytest.approx(1 - float((x * y).sum(1).mean()))
    assert found["pres"]["before"] == pytest.approx(float((x @ ref.T).mean()))
    assert found["pres"]["after"] == pytest.approx(float((y @ ref.T).mean()))
    assert found["pairs"] == {"drift": 2, "pres": 6} and found["encoder"] == dino.provenance
    first, second = found["images"]
    assert (first["text"], first["seed"]) == pairs[0]
    assert first["drift"] > 1e-4 and second["drift"] == pytest.approx(0, abs=1e-9), "the second has not changed"
    assert second["pres_before"] == second["pres_after"]
