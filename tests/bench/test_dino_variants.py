"""The six readings of DINO against plain transformers, and the command that tells which lies near the paper's."""

import json

import pytest
import torch
from helpers.encoder_folders import picture, write_dinov2, write_vit
from helpers.grids import make_subjects
from torch.nn import functional as F

from symdream.bench.dino_variants import PAPER, VARIANTS, embed, six_scores
from symdream.bench.subjects import read_subjects
from symdream.cli import main
from symdream.metrics.encoders import load_dino


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return load_dino(str(write_vit(tmp_path_factory.mktemp("vit"))))


@pytest.fixture(scope="module")
def images():
    return [picture(seed, (96, 80)) for seed in range(6)]


@torch.inference_mode()
def test_each_reading_is_what_it_is_called(encoder, images):
    found = embed(encoder, images)
    assert set(found) == set(VARIANTS[:-1])
    model, pixels = encoder.model, encoder.preprocessing(images)
    states = model(pixels, output_hidden_states=True).hidden_states
    norm = model.layernorm
    assert torch.allclose(found["[CLS], last layer"], norm(states[-1])[:, 0], atol=1e-5)
    assert torch.allclose(found["[CLS], no final layer norm"], states[-1][:, 0], atol=1e-5)
    assert torch.allclose(found["[CLS], middle layer"], states[1][:, 0], atol=1e-5)  # of two blocks, the first
    assert torch.allclose(found["patches' mean, last layer"], norm(states[-1])[:, 1:].mean(1), atol=1e-5)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (encoder.preprocessing.mean, encoder.preprocessing.std))
    raw = model(pixels * std + mean).last_hidden_state[:, 0]
    assert torch.allclose(found["[CLS], input in [0, 1]"], raw, atol=1e-5)


def test_the_first_is_the_score_that_is_reported(encoder, images):
    ours = encoder.images(images[:2]) @ encoder.images(images[2:]).T
    assert six_scores(encoder, [(images[:2], images[2:])])[VARIANTS[0]] == pytest.approx(ours.mean().item(), abs=1e-5)


def test_centred_takes_the_mean_of_all_references_off(encoder, images):
    sets = [(images[:2], images[2:4]), (images[1:3], images[4:])]
    rows = [[embed(encoder, side)[VARIANTS[0]] for side in pair] for pair in sets]
    centre = torch.cat([reference for _, reference in rows]).mean(0)
    cosines = [F.cosine_similarity((g - centre)[:, None], (r - centre)[None], dim=-1).mean().item() for g, r in rows]
    assert six_scores(encoder, sets)["[CLS], centred"] == pytest.approx(sum(cosines) / 2, abs=1e-4)


def test_a_model_with_another_patch_and_size_has_all_six(tmp_path, images):
    scores = six_scores(load_dino(str(write_dinov2(tmp_path / "dinov2"))), [(images[:2], images[2:])])
    assert list(scores) == list(VARIANTS) and all(-1 <= value <= 1 for value in scores.values())


def test_the_command_scores_the_last_pictures_of_every_arm(tmp_path, capsys):
    from helpers.comparisons import simulated

    from symdream.bench.results import write_results

    data = make_subjects(tmp_path / "subjects")
    content, _ = simulated({}, subjects=1, seeds=1, methods=("lora", "singlora"), match="rank")
    content["grid"]["config"] = {"data": str(data), "tune": False, "dino": "sprite"}
    for cell in content["cells"]:
        cell["subject"] = "alpha"
        place = tmp_path / "out" / "cells" / cell["id"] / "pictures" / "step-120"
        place.mkdir(parents=True)
        for i, photo in enumerate(read_subjects(data, embedded=True)["alpha"].photos().values()):
            photo.save(place / f"{i:02d}-0.png")
    write_results(tmp_path / "out", content)
    assert main(["compare", "variants", str(tmp_path / "out")]) == 0
    found = json.loads((tmp_path / "out" / "dino-variants.json").read_text())
    assert set(found["scores"]) == {"lora-r8", "singlora-r8"} and found["paper"] == PAPER
    for scores in found["scores"].values():
        assert list(scores) == list(VARIANTS)
        # These pictures are the photos: each is its own match in every third pair.
        assert scores[VARIANTS[0]] > 1 / 3 - 0.5
    near = {name for scores in found["scores"].values() for name, v in scores.items() if abs(v - PAPER) <= 0.02}
    assert set(found["near_the_paper"]) == near
    captured = capsys.readouterr()
    assert captured.out.count("lora-r8") >= 12 and "of the paper's 0.14" in captured.err


def test_without_pictures_there_is_nothing_to_score(tmp_path, capsys):
    from helpers.comparisons import simulated

    from symdream.bench.results import write_results

    content, _ = simulated({}, subjects=1, seeds=1, methods=("lora", "singlora"), match="rank")
    content["grid"]["config"] = {"data": str(make_subjects(tmp_path / "subjects")), "tune": False, "dino": "sprite"}
    for cell in content["cells"]:
        cell["subject"] = "alpha"
    write_results(tmp_path, content)
    assert main(["compare", "variants", str(tmp_path)]) == 2
    assert "no pictures" in capsys.readouterr().err


def test_a_subject_that_is_no_longer_there_is_named(tmp_path, capsys):
    from helpers.comparisons import simulated

    from symdream.bench.results import write_results

    content, _ = simulated({}, subjects=2, seeds=1, methods=("lora", "singlora"), match="rank")
    content["grid"]["config"] = {"data": str(make_subjects(tmp_path / "subjects")), "tune": False, "dino": "sprite"}
    write_results(tmp_path, content)
    assert main(["compare", "variants", str(tmp_path)]) == 2
    assert "The photos of subject-00 and subject-01, which" in capsys.readouterr().err
