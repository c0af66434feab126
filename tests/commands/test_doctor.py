import json

import psutil
import pytest
import torch

from symdream import settings
from symdream.cli import main
from symdream.config import TrainConfig
from symdream.diffusion import engine
from symdream.diffusion.machine import Machine, available_ram, look_at_machine
from symdream.diffusion.sizes import KNOWN
from symdream.training.forecast import fits, seconds_per_step, time_estimates
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training


def a_machine(**changes):
    given = {"device": "cpu", "device_name": "test", "dtype": "float32", "memory": 8 * 10**9, "memory_kind": "RAM"}
    return Machine(**(given | {"cores": 4, "versions": {}, "note": None} | changes))


def test_this_machine_is_described_from_what_is_there():
    machine = look_at_machine()
    assert machine.versions["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert machine.device in ("cpu", "cuda", "mps")
    assert machine.dtype in ("float32", "bfloat16", "float16")
    assert (machine.device == "cpu") <= (machine.dtype == "float32")
    assert machine.cores >= 1
    assert machine.memory_kind == ("GPU memory" if machine.device == "cuda" else "RAM")
    assert 10**8 < available_ram() <= psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("limit", "used", "expected"),
    [(3 * 10**8, 10**8, 2 * 10**8), (10**15, 10**8, None), (None, 10**8, None), (3 * 10**8, None, None)],
)
def test_the_memory_of_a_container_ends_at_its_limit(monkeypatch, limit, used, expected):
    monkeypatch.setattr("symdream.diffusion.machine._control_group", {"memory.max": limit, "memory.current": used}.get)
    assert available_ram() == (expected or pytest.approx(psutil.virtual_memory().available, rel=0.2))


def test_what_fits_follows_memory_batch_and_number_format():
    def plain(**changes):
        found = fits(a_machine(memory=8 * 10**9, **changes))
        return {(f.base, f.batch_size): f.fits for f in found if not f.gradient_checkpointing}

    small = plain()
    assert small["sprite", 1] and small["sprite", 4] and small["sd15", 1] and not small["sd15", 4]
    assert not small["sdxl", 1]
    assert plain(dtype="bfloat16")["sd15", 4]
    checkpointed = {(f.base, f.batch_size): f for f in fits(a_machine()) if f.gradient_checkpointing}
    assert checkpointed["sd15", 4].fits
    assert {f.fits for f in fits(a_machine(memory=None))} == {None}


def test_a_run_takes_its_steps_and_sd15_is_labelled_as_an_estimate():
    sprite, sd15 = time_estimates(a_machine(), 0.5)
    assert (sprite.seconds, sprite.measured) == (0.5 * TrainConfig().training.steps, True)
    assert sd15.seconds == pytest.approx(sprite.seconds * KNOWN["sd15"].flops / KNOWN["sprite"].flops)
    assert not sd15.measured
    assert "estimate" in sd15.text


def test_on_a_gpu_the_time_of_sd15_is_called_unknown():
    _, sd15 = time_estimates(a_machine(device="cuda"), 0.05)
    assert sd15.seconds is None
    assert "unknown" in sd15.text


@pytest.mark.slow
def test_the_step_that_is_timed_is_that_of_a_run_with_the_default_settings(tmp_path, photos, monkeypatch):
    asked, choose = [], engine.choose_engine

    def noted(wanted, parts, say):
        asked.append((wanted, parts))
        return choose(wanted, parts, say)

    monkeypatch.setattr(engine, "choose_engine", noted)
    monkeypatch.setattr("symdream.train.choose_engine", noted)
    assert seconds_per_step(look_at_machine()) > 0
    images = {"images": photos, "class_noun": "toy", "steps": 1, "tensorboard": False}
    run_training(RunFolder.create(tmp_path / "run"), settings.build(settings.merge({}, images)))
    (timed, ours), (wanted, theirs) = asked
    assert timed == wanted
    assert [p.shape for p in ours.parameters] == [p.shape for p in theirs.parameters]
    for name in ("device", "dtype", "max_grad_norm", "accumulation", "dropout", "captions"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert type(ours.optimizer) is type(theirs.optimizer) and len(ours.ramps) == len(theirs.ramps)
    assert [g["base_lr"] for g in ours.optimizer.param_groups] == [g["base_lr"] for g in theirs.optimizer.param_groups]


@pytest.mark.slow
def test_doctor_reports_everything_as_text_and_as_json(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    for word in ("device", "dtype", "memory", "versions", "sprite", "sd15", "fits", "measured", "estimate"):
        assert word in text
    assert main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["times"][0]["seconds"] > 0
    assert {base["name"] for base in report["bases"]} >= {"sprite", "sd15", "sdxl"}
