"""Validation, selection and early stop in the real trainer, on tiny models with sprite's encoders."""

import json
import shutil

import numpy as np
import pytest
import torch
from helpers.runs import adapter_tensors, make_photos, tiny_config, train_tiny

from symdream.diffusion.adapters import read_metadata
from symdream.errors import RequestError, Stopped
from symdream.settings import build, read_toml
from symdream.training.checkpoint import best_of, list_checkpoints
from symdream.training.criterion import Scores
from symdream.training.judge import FIRST_SEED, Judge
from symdream.training.metrics_file import MetricsFile
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training
from symdream.training.validation import TRIPLES, VALIDATION_SEED, read_validation
from symdream.tuners import find_ramps

ENCODERS = {"dino": "sprite", "clip": "sprite"}


def assert_same_tensors(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_validation_changes_nothing_of_the_training_and_is_written_at_its_steps(tmp_path, tiny_sd1, photos):
    options = {"steps": 3, "dropout": 0.2, "components": "unet"}
    without = train_tiny(tmp_path / "without", tiny_sd1, photos, **options)
    looked = train_tiny(tmp_path / "looked", tiny_sd1, photos, validate_every=2, **options)
    assert_same_tensors(adapter_tensors(without), adapter_tensors(looked))
    assert list(read_validation(looked)) == [2, 3], "every 2 steps, and the last"
    assert [line["step"] for line in map(json.loads, looked.metrics.read_text().splitlines())] == [1, 2, 3]
    assert not (without.path / "validation.jsonl").exists()


def test_the_validation_loss_is_the_error_on_the_same_triples_computed_by_hand(tmp_path, tiny_sd1, photos):
    from symdream.data import draws
    from symdream.data.images import find_images, read_image
    from symdream.diffusion.adapters import attach_saved
    from symdream.diffusion.base import load_base
    from symdream.diffusion.loss import add_noise

    small = {"steps": 2, "components": "unet", "batch_size": 3, "lr": 1e-2, "resolution": 64, "dropout": 0.5}
    square = make_photos(tmp_path / "square", size=(64, 64))
    run = train_tiny(tmp_path / "run", tiny_sd1, square, validate_every=2, seed=5, **small)
    base = load_base(str(tiny_sd1))
    attach_saved(base, run.adapter)
    base.unet.eval()  # without dropout
    images = [read_image(path) for path in find_images(square)]
    ids = base.tokenizer("a photo of a sks toy", padding="max_length", max_length=77, return_tensors="pt").input_ids
    errors = []
    with torch.no_grad():
        text = base.text_encoder(ids).last_hidden_state
        for k in range(-(-TRIPLES // 3) * 3):
            image = images[draws.image_index(VALIDATION_SEED, k, len(images))]
            pixels = torch.tensor(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1) / 127.5 - 1
            coded = base.vae.encode(pixels[None]).latent_dist
            noise = draws.normal(VALIDATION_SEED, k, (4, 8, 8), "noise")[None]
            x0 = 0.18215 * (coded.mean + coded.std * draws.normal(VALIDATION_SEED, k, (4, 8, 8), "latent")[None])
            t = torch.tensor([draws.timestep(VALIDATION_SEED, k, 1000)])
            x_t = add_noise(x0, noise, base.scheduler.alphas_cumprod, t)
            errors.append(float((base.unet(x_t, t, text).sample - noise).square().mean()))
    assert read_validation(run)[2] == pytest.approx(sum(errors) / len(errors), rel=1e-4)


def test_two_runs_of_other_seeds_and_batches_are_asked_the_same_triples(tmp_path, tiny_sd1, photos):
    """At a rate at which nothing is learned, only the triples decide."""
    small = {"steps": 1, "components": "unet", "method": "symlora", "lr": 1e-12, "validate_every": 1, "resolution": 128}
    one = train_tiny(tmp_path / "one", tiny_sd1, photos, seed=1, batch_size=4, **small)
    other = train_tiny(tmp_path / "other", tiny_sd1, photos, seed=2, batch_size=2, accumulation=2, **small)
    assert read_validation(one)[1] == pytest.approx(read_validation(other)[1], rel=1e-5)


def test_losses_of_steps_that_a_resume_has_not_reached_again_are_gone(tmp_path, tiny_sd1, photos, monkeypatch):
    options = {"steps": 3, "components": "unet", "batch_size": 1, "validate_every": 1, "checkpoint_every": 1}
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, **options)
    before = read_validation(run)
    for step in (2, 3):
        shutil.rmtree(run.checkpoints / f"step-{step}")
    stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        run_training(RunFolder.open(run.path), build(read_toml(run.config)), resume=True)
    assert read_validation(run) == {step: before[step] for step in (1, 2)}


SELECT = {"steps": 6, "select_every": 2, "keep": 1, "batch_size": 1, "components": "unet", **ENCODERS}


@pytest.fixture
def scripted(monkeypatch):
    """The judge really draws nothing: its scores are given in the order in which they are asked for."""

    def script(*likeness):
        given = iter(likeness)
        asked = []

        def scores(self):
            asked.append(next(given))
            return Scores(asked[-1], 1.0)

        monkeypatch.setattr(Judge, "scores", scores)
        return asked

    return script


def stop_after(monkeypatch, step):
    record = MetricsFile.record

    def and_stop(self, **values):
        record(self, **values)
        if values["step"] == step:
            RunFolder(self.path.parent).stop_file.touch()

    monkeypatch.setattr(MetricsFile, "record", and_stop)


@pytest.mark.slow
def test_selection_on_real_pictures_leaves_the_training_as_it_is_and_resumes_exactly(
    tmp_path, tiny_sd1, photos, few_denoising_steps, monkeypatch
):
    off = train_tiny(tmp_path / "off", tiny_sd1, photos, **{**SELECT, "select_every": 0, "dino": None, "clip": None})
    whole = train_tiny(tmp_path / "whole", tiny_sd1, photos, validate_every=3, **SELECT)
    last = whole.checkpoints / "step-6" / "adapter-unet.safetensors"
    assert last.read_bytes() == (off.checkpoints / "step-6" / "adapter-unet.safetensors").read_bytes()

    known = json.loads((whole.path / "selection.json").read_text())
    assert {(row["step"], row["weight"]) for row in known["scores"]} >= {(2, 1.0), (4, 1.0), (6, 1.0)}
    assert all(seed >= FIRST_SEED for seeds in known["protocol"]["seeds"] for seed in seeds)
    chosen = whole.read_summary()["selection"]
    rows = [row for row in known["scores"] if row["weight"] == 1.0]
    best = max(rows, key=lambda row: (row["together"], -row["step"]))
    assert chosen["step"] == best["step"] and best_of(whole.checkpoints).name == f"step-{best['step']}"
    metadata = read_metadata(whole.adapter / "unet" / "adapter_model.safetensors")
    assert (metadata["step"], metadata["recommended_weight"]) == (chosen["step"], chosen["weight"])

    broken = RunFolder.create(tmp_path / "broken")
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        with pytest.raises(Stopped):
            run_training(broken, tiny_config(tiny_sd1, photos, validate_every=3, **SELECT))
    scored = json.loads((broken.path / "selection.json").read_text())["scores"]
    assert [row["step"] for row in scored] == [2], "stopped between the checkpoint of step 4 and its score"
    run_training(RunFolder.open(broken.path), build(read_toml(broken.config)), resume=True)
    assert_same_tensors(adapter_tensors(whole), adapter_tensors(broken))
    assert json.loads((broken.path / "selection.json").read_text()) == known
    assert read_validation(broken) == read_validation(whole)


def test_the_adapter_of_a_run_is_that_of_the_best_checkpoint_and_patience_ends_it(
    tmp_path, tiny_sd1, photos, scripted, capsys
):
    """First asked is the base; then steps 2, 4 and 6; then step 2 at the other weights."""
    from safetensors.torch import load_file

    asked = scripted(-1.0, -0.5, -0.7, -0.8, -0.6, -0.4, -0.7)
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, **{**SELECT, "steps": 8}, patience=2)
    assert len(asked) == 7
    assert run.read_state() | {"pid": 0} == {"status": "finished", "step": 6, "steps": 8, "pid": 0, "error": None}
    assert "Stopping after step 6 of 8" in capsys.readouterr().err
    summary = run.read_summary()
    assert (summary["selection"]["step"], summary["selection"]["weight"], summary["steps"]) == (2, 1.2, 6)
    assert {path.name for path in list_checkpoints(run.checkpoints)} == {"step-2", "step-6"}, "best, and the newest"
    saved = load_file(run.checkpoints / "step-2" / "adapter-unet.safetensors")
    ours = {name.removeprefix("unet.base_model.model."): tensor for name, tensor in adapter_tensors(run).items()}
    assert len(ours) == len(saved)
    for name, tensor in saved.items():
        assert torch.equal(ours[name.replace(".default", "")], tensor), name


def test_each_state_is_judged_and_kept_with_the_ramp_of_its_own_step(tmp_path, tiny_sd1, photos, monkeypatch):
    """With a ramp over all 6 steps, u is s / 6 in the update that leads to step s; step 3 is the best."""
    seen = []

    def scores(judge):
        [ramp] = find_ramps(judge.base.unet)
        seen.append(ramp.value)
        return Scores(0.9 if len(seen) == 1 + 3 else 0.1, 1.0)  # the first are the base's

    monkeypatch.setattr(Judge, "scores", scores)
    options = {**SELECT, "select_every": 1, "method": "singlora", "ramp": 1.0}
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, **options)
    assert seen[1:] == pytest.approx([step / 6 for step in (1, 2, 3, 4, 5, 6, 3, 3, 3)])
    saved = (run.adapter / "unet" / "adapter_config.json").read_text()
    assert json.loads(saved)["u"] == 0.5

    shutil.rmtree(run.adapter)  # as if it was killed before it wrote it
    run_training(RunFolder.open(run.path), build(read_toml(run.config)), resume=True)
    assert len(seen) == 10 and (run.adapter / "unet" / "adapter_config.json").read_text() == saved


def test_a_run_that_patience_ended_is_finished_for_resume_too(tmp_path, tiny_sd1, photos, scripted, monkeypatch):
    """Killed after its last score: the resumed run trains no further, and scores only what was not scored yet."""
    options = {**SELECT, "steps": 8}
    asked = scripted(-1.0, -0.5, -0.7, -0.8, -0.6, -0.4, -0.7)
    killed = RunFolder.create(tmp_path / "killed")

    def die(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("symdream.training.selection.Selection.restore_best", die)
        with pytest.raises(KeyboardInterrupt):
            run_training(killed, tiny_config(tiny_sd1, photos, **options, patience=2))
    assert len(asked) == 4
    before = killed.metrics.read_text()
    run_training(RunFolder.open(killed.path), build(read_toml(killed.config)), resume=True)
    assert len(asked) == 7 and killed.metrics.read_text() == before
    assert killed.read_summary()["selection"]["weight"] == 1.2 and killed.read_state()["step"] == 6


def test_an_encoder_that_cannot_be_had_is_told_before_anything_is_trained(tmp_path, tiny_sd1, photos):
    with pytest.raises(RequestError, match="nowhere"):
        train_tiny(tmp_path / "run", tiny_sd1, photos, **{**SELECT, "dino": str(tmp_path / "nowhere")})
    assert not (tmp_path / "run").exists()


def test_prompts_that_are_not_held_out_choose_and_the_others_do_not(tiny_sd1, tmp_path):
    from symdream.data.photos import read_photos
    from symdream.diffusion.base import load_base
    from symdream.training.defaults import resolve

    photos = make_photos(tmp_path / "photos")
    (photos / "prompts.toml").write_text(
        'class_noun = "toy"\n[[prompt]]\ntext = "a {subject} for reports"\n'
        '[[prompt]]\ntext = "a {subject} to choose by"\nheld_out = false\n'
    )
    base = load_base(str(tiny_sd1))
    config = resolve(tiny_config(tiny_sd1, photos, **SELECT), base)
    [case] = Judge(base, config, read_photos(config)).cases
    assert set(case.texts) == {"a sks toy to choose by"} and len(set(case.seeds)) == len(case.texts) == 8


def test_prompts_that_cannot_be_read_are_told_with_the_request(tmp_path):
    from symdream.training import request

    photos = make_photos(tmp_path / "photos")
    (photos / "prompts.toml").write_text('class_noun = "toy"\n[[prompt]]\ntext = "a toy"\n')
    argv = ["--images", str(photos), "--class-noun", "toy", "--select-every", "2", "--rank", "0"]
    with pytest.raises(RequestError) as caught:
        request.read_request(request.parse(argv, "symdream train", ""))
    assert len(caught.value.problems) == 2 and "prompt 1: text" in str(caught.value)


@pytest.mark.parametrize("flags", [{"patience": 2}, {"dino": "sprite"}, {"clip": "sprite"}])
def test_settings_of_a_selection_that_is_off_are_refused(tiny_sd1, photos, flags):
    with pytest.raises(RequestError, match="does nothing without select_every"):
        tiny_config(tiny_sd1, photos, **flags)


@pytest.mark.slow
def test_generate_and_evaluate_use_the_weight_that_training_found_best(
    tmp_path, tiny_sd1, photos, scripted, few_denoising_steps
):
    from helpers.runs import symdream

    from symdream.metrics.run_scores import evaluate_run

    scripted(-1.0, -0.5, -0.6, -0.4, -0.7)
    run = train_tiny(tmp_path / "run", tiny_sd1, photos, **{**SELECT, "steps": 2})
    assert run.read_summary()["selection"]["weight"] == 1.2
    draw = ["generate", "--adapter", run.path, "--prompt", "a {subject}", "--count", "1", "--steps", "2"]
    default = symdream(*draw, "-o", tmp_path / "default")
    assert "weight is 1.2, which its training found best" in default.stderr
    for weight in ("1.2", "1.0"):
        symdream(*draw, "--weight", weight, "-o", tmp_path / weight)
    drawn = {name: (tmp_path / name / "00-0.png").read_bytes() for name in ("default", "1.2", "1.0")}
    assert drawn["default"] == drawn["1.2"] != drawn["1.0"]
    assert evaluate_run(run, **ENCODERS)["weight"] == 1.2


@pytest.mark.slow
def test_two_processes_end_together_when_patience_is_over(tmp_path, tiny_sd1, photos):
    """Only the main process draws and judges; the other learns from it when to end."""
    import subprocess
    import sys
    from pathlib import Path

    script = str(Path(__file__).parent.parent / "symdream" / "train.py")
    # At this rate nothing is learned, so that no score beats the first.
    options = ["--images", photos, "--class-noun", "toy", "--base", tiny_sd1, "--rank", "4", "--method", "symlora"]
    options += ["--steps", "50", "--batch-size", "1", "--lr", "1e-12", "--components", "unet", "--device", "cpu"]
    options += ["--select-every", "1", "--patience", "1", "--dino", "sprite", "--clip", "sprite", "--resolution", "64"]
    two = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", script]
        + [str(option) for option in [*options, "-o", tmp_path / "run"]],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert two.returncode == 0, two.stderr
    run = RunFolder(tmp_path / "run")
    assert run.read_state()["status"] == "finished" and run.read_state()["step"] < 50
    assert two.stderr.count("Stopping after step") == 1
