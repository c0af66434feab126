"""A run goes on with as many processes as it began with."""

import json
import os
import time
from pathlib import Path

import pytest
from helpers.runs import symdream, train_tiny

from symdream.errors import RequestError
from symdream.files import write_json
from symdream.interop.read import read_adapter
from symdream.training.processes import age, resume_command

SCRIPT = Path(__file__).parent.parent.parent / "symdream" / "train.py"


def test_a_run_of_two_processes_is_not_resumed_by_one(tmp_path, tiny_sd1, photos, few_denoising_steps):
    run = train_tiny(tmp_path / "my run", tiny_sd1, photos, steps=2)
    env = json.loads(run.env.read_text())
    assert env["processes"] == 1
    write_json(run.env, {**env, "processes": 2})  # as if two had trained it
    run.write_state("stopped", step=1, steps=2)
    result = symdream("train", "--resume", run.path, cwd=tmp_path)
    assert result.returncode == 2
    assert f"{run.path} was trained by 2 processes and would go on with 1: its steps would see fewer" in result.stderr
    command = f"accelerate launch --cpu --num_processes 2 {SCRIPT} --resume '{run.path}'"
    assert f"continue with: {command}" in result.stderr
    assert json.loads(run.env.read_text())["processes"] == 2
    write_json(run.env, env)
    assert symdream("train", "--resume", run.path).returncode == 0


def test_the_command_that_resumes_a_run_starts_as_many_processes(tmp_path, monkeypatch):
    assert resume_command(Path("runs/owl"), 1, on_cpu=True) == "symdream train --resume runs/owl"
    monkeypatch.chdir(SCRIPT.parent.parent)
    script = os.path.join("symdream", "train.py")
    command = f"accelerate launch --num_processes 4 {script} --resume runs/owl"
    assert resume_command(Path("runs/owl"), 4, on_cpu=False) == command
    monkeypatch.chdir(tmp_path)
    assert f" {SCRIPT} " in resume_command(Path("runs/owl"), 4, on_cpu=False)


def test_what_has_no_adapter_yet_is_finished_by_as_many_processes_as_began_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = Path("runs/owl")
    run.mkdir(parents=True)
    (run / "config.toml").write_text("")
    with pytest.raises(RequestError) as refused:
        read_adapter(run)
    assert refused.value.fix == "finish it: symdream train --resume runs/owl"
    write_json(run / "env.json", {"processes": 2, "device": "cuda:0"})
    with pytest.raises(RequestError) as refused:
        read_adapter(run)
    assert refused.value.fix == f"finish it: accelerate launch --num_processes 2 {SCRIPT} --resume runs/owl"


def test_a_process_that_seems_to_be_of_the_future_is_new(monkeypatch):
    assert 0 < age() < 24 * 3600
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 1e6)
    assert age() == 0
