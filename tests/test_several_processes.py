"""One run trained by two processes (gloo, CPU): they agree, one writes, they end together, resume is exact."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from helpers.runs import adapter_tensors, symdream

from symdream.training.checkpoint import list_checkpoints
from symdream.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

SCRIPT = str(Path(__file__).parent.parent / "symdream" / "train.py")
STEPS = 12


def launch(*flags, cwd=None):
    """`accelerate launch` of two processes; their messages come together on stderr."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", SCRIPT]
    return subprocess.Popen([*command, *map(str, flags)], stderr=subprocess.PIPE, text=True, cwd=cwd)


def flags_of(base, photos):
    return ["--images", photos, "--class-noun", "toy", "--base", base, "--steps", STEPS, "--rank", "4", "--batch-size",
            "1", "--components", "unet", "--checkpoint-every", "1"]  # fmt: skip


def wait_for(step, run, process):
    deadline = time.monotonic() + 300
    while not (run.checkpoints / f"step-{step}").exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.02)


def wait_for_end(process):
    deadline = time.monotonic() + 300
    while process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def end(process):
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def test_a_run_of_two_that_loses_one_and_is_stopped_ends_as_an_unbroken_one(tmp_path, tiny_sd1, photos):
    flags = flags_of(tiny_sd1, photos)
    unbroken = launch(*flags, cwd=tmp_path)  # without --output: both must take the folder that the first one made
    code, said = end(unbroken)
    assert code == 0, said
    (whole,) = (RunFolder(path) for path in (tmp_path / "runs").iterdir())
    assert said.count("Teaching") == said.count(f"training {STEPS}/{STEPS}") == 1, "one process talks"
    assert json.loads(whole.env.read_text())["processes"] == 2

    run = RunFolder(tmp_path / "run")
    process = launch(*flags, "-o", run.path)
    wait_for(2, run, process)
    leader = run.read_state()["pid"]
    workers = [p for p in psutil.Process(process.pid).children(recursive=True) if p.cmdline()[1:3] == ["-u", SCRIPT]]
    assert len(workers) == 2 and leader in [p.pid for p in workers]
    launcher = psutil.Process(leader).parent()
    launcher.suspend()  # it would end the leader too, at its next look: maybe before that has said why it ends
    next(p for p in workers if p.pid != leader).kill()
    wait_for_end(psutil.Process(leader))
    launcher.resume()
    code, said = end(process)
    assert code != 0
    assert not psutil.pid_exists(leader)
    again = f"accelerate launch --cpu --num_processes 2 {SCRIPT} --resume {run.path}".replace(f"{Path.cwd()}/", "", 1)
    told = "Another process of this run ended (killed, out of memory, or by an error of its own).\n"
    told += f"  fix:   continue with: {again}"
    state = run.read_state()
    assert (state["status"], state["error"]) == ("failed", told)
    assert said.count(told) == 1 and "GLHF" not in said and "all_reduce" not in said, "no trace of ours"

    process = launch("--resume", run.path)
    wait_for(int(list_checkpoints(run.checkpoints)[-1].name[5:]) + 1, run, process)
    run.stop_file.touch()
    code, said = end(process)
    assert code != 0 and f"Stopped by the file {run.stop_file}" in said
    state = run.read_state()
    assert state["status"] == "stopped" and state["step"] < STEPS
    assert again in said

    one = symdream("train", "--resume", run.path)
    assert one.returncode == 2 and "was trained by 2 processes" in one.stderr
    assert json.loads(run.env.read_text())["processes"] == 2 and run.read_state()["step"] == state["step"]

    code, said = end(launch("--resume", run.path))
    assert code == 0 and f"resumed at step {state['step']}" in said
    ours, theirs = adapter_tensors(run), adapter_tensors(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    losses = [[json.loads(line)["loss"] for line in r.metrics.read_text().splitlines()] for r in (run, whole)]
    assert len(losses[0]) == STEPS and losses[0] == losses[1]


def test_an_error_in_the_writing_process_ends_the_other_too(tmp_path, tiny_sd1, photos):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years")
    code, said = end(launch(*flags_of(tiny_sd1, photos), "-o", taken))
    assert code != 0 and f"{taken} exists and is not a run folder (no config.toml in it)" in said
    assert [p.name for p in taken.iterdir()] == ["thesis.txt"]
