"""Runs trained together end as each does alone."""

import errno
import importlib
import itertools
import json
import os

import pytest
import torch
from helpers.runs import adapter_tensors, make_photos, tiny_config, train_tiny
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from symdream.diffusion import batched_engine
from symdream.diffusion.base import load_base
from symdream.errors import Problems, RequestError
from symdream.files import disk_error
from symdream.training import outputs, recorder
from symdream.training.batchable import what_differs
from symdream.training.batched import train_together
from symdream.training.run_folder import RunFolder


def together(folder, configs, base=None):
    runs = [RunFolder.create(folder / f"together-{i}") for i in range(len(configs))]
    assert train_together(runs, configs, base) == [True] * len(configs)
    return runs


def masked_photos(folder, count, size, *, subject):
    """Photos, the first with a mask that has the subject in so many columns at the left."""
    make_photos(folder, count, size)
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, subject, size[1]))
    mask.save(folder / "00_mask.png")
    return folder


def assert_as_alone(folder, base, variants, steps):
    """`variants`: (photos, flags) of each run.

    The first losses agree to rounding. So does what training changed, but for entries whose gradient is itself
    rounding: Adam's first steps take its sign. They are few, so the whole is within a hundredth. Twice the resolution,
    so that no attention has a single key, whose projection would get no gradient but rounding.
    """
    shared = {"steps": steps, "batch_size": 1, "rank": 2, "resolution": 128}
    starts = []
    for i, (images, flags) in enumerate(variants):
        still = {"steps": 1, "lr": 1e-12} | ({} if "components" in flags else {"text_encoder_lr": 1e-12})
        starts.append(train_tiny(folder / f"start-{i}", base, images, **shared | flags | still))
    alone = [train_tiny(folder / f"alone-{i}", base, p, **shared | f) for i, (p, f) in enumerate(variants)]
    runs = together(folder, [tiny_config(base, p, **shared | f) for p, f in variants])
    for start, one, other in zip(starts, alone, runs, strict=True):
        before, wanted, found = (adapter_tensors(run) for run in (start, one, other))
        assert found.keys() == wanted.keys()
        moved = sum(float((wanted[n] - before[n]).square().sum()) for n in wanted) ** 0.5
        apart = sum(float((wanted[n] - found[n]).square().sum()) for n in wanted) ** 0.5
        assert moved > 0 and apart <= 0.01 * moved, (one.path.name, apart / moved)
        losses = [[json.loads(line)["loss"] for line in run.metrics.read_text().splitlines()] for run in (one, other)]
        assert losses[1][0] == pytest.approx(losses[0][0], rel=1e-6)  # nothing has been trained yet
        assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    return alone, runs


def test_symmetric_runs_of_other_subjects_masks_seeds_and_rates(tmp_path, tiny_sd1, photos):
    masked = masked_photos(tmp_path / "masked", 1, (80, 64), subject=40)
    others = {"method": "symlora", "seed": 2, "lr": 1e-3, "text_encoder_lr": 4e-3, "mask_strength": 0.9}
    variants = [(photos, {"method": "singlora", "seed": 1, "lr": 2e-3}), (masked, others)]
    alone, runs = assert_as_alone(tmp_path, tiny_sd1, variants, steps=2)
    for one, other in zip(alone, runs, strict=True):
        assert {p.name for p in other.adapter.iterdir()} == {"unet", "text_encoder"}
        for file in ("state.json", "summary.json", "env.json"):
            first, second = (json.loads((run.path / file).read_text()) for run in (one, other))
            assert first.keys() <= second.keys() | {"startup_seconds"}
        assert other.read_state()["status"] == "finished"
        assert other.read_summary()["trained_together"] == 2
        configs = [(run.path / "adapter/unet/adapter_config.json").read_text() for run in (one, other)]
        assert configs[0] == configs[1]


@pytest.mark.slow
def test_loras_with_schedules_weights_clipping_and_min_snr(tmp_path, tiny_sd1, photos):
    variants = [
        (photos, {"method": "lora", "lr": 1e-4, "lr_schedule": "cosine", "warmup": 0.5, "seed": 3}),
        (photos, {"method": "lora+", "lr": 1e-5, "min_snr_gamma": 2.0, "max_grad_norm": 1e-3, "seed": 4}),
        (photos, {"method": "dora", "lr": 1e-4, "alpha": 3.0, "weight_decay": 0.1, "seed": 5}),
    ]
    assert_as_alone(tmp_path, tiny_sd1, variants, steps=3)


@pytest.mark.slow
def test_v_prediction_with_min_snr_in_one_of_two(tmp_path, tiny_sd2, photos):
    variants = [
        (photos, {"method": "symlora", "lr": 1e-4}),
        (photos, {"method": "singlora", "min_snr_gamma": 1.0, "lr": 1e-4}),
    ]
    assert_as_alone(tmp_path, tiny_sd2, variants, steps=2)


@pytest.mark.slow
def test_sdxl_with_the_unet_alone_and_prior_preservation(tmp_path, tiny_sdxl, photos):
    classes = make_photos(tmp_path / "classes", 2)
    shared = {"components": "unet", "class_images": classes}
    variants = [(photos, {"method": "symlora", **shared}), (photos, {"method": "symlora", "seed": 7, **shared})]
    assert_as_alone(tmp_path, tiny_sdxl, variants, steps=2)


@pytest.mark.slow
def test_gradient_checkpointing(tmp_path, tiny_sd1, photos):
    variants = [(photos, {"gradient_checkpointing": True, "seed": seed}) for seed in (0, 1)]
    assert_as_alone(tmp_path, tiny_sd1, variants, steps=2)


@pytest.mark.slow
def test_two_runs_on_sprite(tmp_path, photos):
    variants = [(photos, {"method": method, "batch_size": 1, "rank": 4}) for method in ("singlora", "symlora")]
    assert_as_alone(tmp_path, "sprite", variants, steps=2)


def test_class_images_are_drawn_on_the_bases_own_noise_schedule_as_alone(tmp_path, tiny_sd2, photos):
    flags = {"class_count": 1, "zero_terminal_snr": True, "steps": 1, "batch_size": 1, "rank": 2, "components": "unet"}
    alone = train_tiny(tmp_path / "alone", tiny_sd2, photos, cache_dir=tmp_path / "cache-alone", **flags)
    [run] = together(tmp_path, [tiny_config(tiny_sd2, photos, cache_dir=tmp_path / "cache-together", **flags)])
    wanted, found = (json.loads((one.path / "env.json").read_text())["class_images"] for one in (alone, run))
    assert wanted and found == wanted


@pytest.mark.parametrize(("engine", "recorded"), [("eager", False), ("graph", True), ("auto", True)])
def test_the_engine_that_is_asked_for_takes_the_steps(tmp_path, tiny_sd1, photos, monkeypatch, engine, recorded):
    """On a CPU what would be recorded is called as it is."""
    made = []

    class Noted(batched_engine.Captured):
        def __init__(self, *args, **kwargs):
            made.append(self)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(batched_engine, "Captured", Noted)
    together(tmp_path, three_runs(tmp_path, tiny_sd1, photos, engine=engine)[1][:1])
    assert bool(made) == recorded


def test_a_run_that_diverges_fails_alone_and_the_base_is_left_as_it_was(tmp_path, tiny_sd1, photos):
    base = load_base(str(tiny_sd1))
    before = {name: p.clone() for name, p in base.unet.state_dict().items()}
    flags = {"steps": 2, "batch_size": 1, "rank": 2, "components": "unet", "method": "lora"}
    configs = [tiny_config(tiny_sd1, photos, lr=lr, **flags) for lr in (1e-3, 1e30)]
    runs = [RunFolder.create(tmp_path / name) for name in ("calm", "wild")]
    assert train_together(runs, configs, base) == [True, False]
    assert [run.read_state()["status"] for run in runs] == ["finished", "failed"]
    error = runs[1].read_state()["error"]
    assert "Step 2 of 2: loss nan" in error and "no checkpoint" in error and "lower --lr" in error
    assert not runs[1].adapter.exists()
    assert all(torch.isfinite(value).all() for value in adapter_tensors(runs[0]).values())
    after = base.unet.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_runs_on_a_base_with_nan_in_a_weight_are_told_which(tmp_path, tiny_sd1, photos):
    base = load_base(str(tiny_sd1))
    with torch.no_grad():
        base.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight[0, 0] = float("inf")
    configs = [tiny_config(tiny_sd1, photos, steps=2, batch_size=1, rank=2, seed=seed) for seed in (0, 1)]
    runs = [RunFolder.create(tmp_path / name) for name in ("one", "two")]
    for run in runs:
        run.samples.mkdir()
        (run.samples / "trigger-before-training.png").touch()
    assert train_together(runs, configs, base) == [False, False]
    for run in runs:
        assert "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight" in run.read_state()["error"]


def three_runs(folder, base, photos, **flags):
    """The folders of three short runs, and their settings."""
    shared = {"steps": 1, "batch_size": 1, "rank": 2, "components": "unet", **flags}
    configs = [tiny_config(base, photos, seed=seed, **shared) for seed in range(3)]
    return [RunFolder.create(folder / name) for name in ("one", "two", "three")], configs


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def on_the_second(function, instead):
    """`function`, but `instead` the second time."""
    calls = itertools.count(1)
    return lambda *args, **kwargs: (instead if next(calls) == 2 else function)(*args, **kwargs)


@pytest.mark.parametrize(
    "what", ["symdream.training.outputs.save_adapters", "symdream.training.checkpoint.save_tensors"]
)
def test_a_run_that_cannot_be_written_fails_alone(tmp_path, tiny_sd1, photos, monkeypatch, what):
    runs, configs = three_runs(tmp_path, tiny_sd1, photos)
    module, name = what.rsplit(".", 1)
    monkeypatch.setattr(what, on_the_second(getattr(importlib.import_module(module), name), no_space))
    assert train_together(runs, configs, keep=[1]) == [True, False, True]
    for run in (runs[0], runs[2]):
        assert run.read_state()["status"] == "finished" and run.adapter.exists()
        assert [path.name for path in run.checkpoints.iterdir()] == ["step-1"]
    state = runs[1].read_state()
    assert state["status"] == "failed" and f"Could not write {runs[1].path}" in state["error"]
    assert not runs[1].checkpoints.exists()  # no resume shall find what it cannot go on from


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_full_disk_on_the_way_is_told_as_such(tmp_path, tiny_sd1, photos, monkeypatch, seconds):
    """Whether it is met at a step (blocks of metrics.jsonl are written at once) or after the last."""

    def flush():
        raise disk_error(runs[1].metrics, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    runs, configs = three_runs(tmp_path, tiny_sd1, photos)
    monkeypatch.setattr(recorder, "FLUSH_SECONDS", seconds)
    monkeypatch.setattr(runs[1].lines, "flush", flush)
    assert train_together(runs, configs) == [True, False, True]
    state = runs[1].read_state()
    assert state["status"] == "failed" and f"Could not write {runs[1].metrics}: No space" in state["error"]


def test_a_full_disk_that_takes_no_state_either_costs_no_other_run(tmp_path, tiny_sd1, photos, monkeypatch):
    runs, configs = three_runs(tmp_path, tiny_sd1, photos)
    write = runs[1].write_state

    def write_state(status, **values):
        if status != "running":
            raise disk_error(runs[1].state, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        write(status, **values)

    monkeypatch.setattr(runs[1], "write_state", write_state)
    assert train_together(runs, configs) == [True, False, True]
    assert [run.read_state()["status"] for run in runs] == ["finished", "running", "finished"]


def test_what_is_finished_stays_so_after_ctrl_c(tmp_path, tiny_sd1, photos, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    runs, configs = three_runs(tmp_path, tiny_sd1, photos)
    monkeypatch.setattr(outputs, "save_adapters", on_the_second(outputs.save_adapters, interrupted))
    with pytest.raises(KeyboardInterrupt):
        train_together(runs, configs)
    assert [run.read_state()["status"] for run in runs] == ["finished", "stopped", "stopped"]
    assert runs[0].read_state()["error"] is None and runs[0].adapter.exists()


def test_a_board_that_cannot_be_closed_ends_its_run_alone(tmp_path, tiny_sd1, photos, monkeypatch):
    runs, configs = three_runs(tmp_path, tiny_sd1, photos, tensorboard=True)
    monkeypatch.setattr(SummaryWriter, "close", on_the_second(SummaryWriter.close, no_space))
    assert train_together(runs, configs) == [True, False, True]


def test_what_cannot_be_read_is_told_for_all_runs_and_their_places_stay_free(tmp_path, tiny_sd1, photos):
    folders = [photos, *(make_photos(tmp_path / name, 2) for name in ("worded", "cut"))]
    configs = [tiny_config(tiny_sd1, folder, components="unet", steps=1) for folder in folders]
    (folders[1] / "00.txt").write_text("")
    (folders[2] / "01.png").write_bytes((folders[2] / "01.png").read_bytes()[:99])
    with pytest.raises(Problems) as told:
        train_together([RunFolder.create(tmp_path / f"run-{i}") for i in range(3)], configs)
    worded, cut = (problem.message for problem in told.value.problems)
    assert worded.startswith(f"{folders[1] / '00.txt'} is empty. (write") and str(folders[2] / "01.png") in cut
    assert not list(tmp_path.glob("run-*"))


def test_a_request_that_fails_on_the_way_leaves_what_was_there_before(tmp_path, tiny_sd1, photos):
    def config(folder):
        return tiny_config(tiny_sd1, folder, components="unet", steps=1, rank=2, mask_strength=1.0)

    # The square in the middle does not reach the subject.
    missed = masked_photos(tmp_path / "missed", 1, (200, 64), subject=30)
    [old] = together(tmp_path, [config(photos)])
    runs = [RunFolder.create(old.path, overwrite=True), RunFolder.create(tmp_path / "new")]
    with pytest.raises(RequestError, match="leaves nothing of the photo"):
        train_together(runs, [config(photos), config(missed)])
    assert old.read_state()["status"] == "finished" and old.adapter.exists() and not runs[1].path.exists()

    again = RunFolder.create(old.path, overwrite=True)
    assert train_together([again], [config(photos)]) == [True]
    assert not list(tmp_path.glob(".*.old-*"))  # what was replaced is gone


def test_what_keeps_runs_apart_is_told_all_at_once(tmp_path, tiny_sd1, photos):
    def config(**flags):
        return tiny_config(tiny_sd1, photos, **flags)

    assert what_differs([config(method="lora", seed=1), config(method="dora", lr=1.0, alpha=2.0)]) == []
    told = what_differs([config(), config(method="lora", steps=7, rank=2, accumulation=2, engine="eager")])
    assert {problem.key.split(" ")[0] for problem in told} == {
        "training.steps",
        "training.engine",
        "adapter.rank",
        "adapter.method",
        "training.accumulation",
    }
    with pytest.raises(Problems):
        train_together([RunFolder.create(tmp_path / "a")] * 2, [config(), config(steps=7)])
    assert not (tmp_path / "a" / "state.json").exists()
