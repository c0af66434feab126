"""Exact resume, on real processes that really die: killed, on a full disk, with their newest files damaged.

The processes are forks of one that has imported everything (helpers/fork_server.py); what runs in them is the
symdream command, and SIGKILL ends them wherever they are.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time

import pytest
import torch
from helpers.fork_server import ForkServer
from helpers.runs import adapter_tensors

from symdream.training.checkpoint import list_checkpoints, newest_intact, step_of
from symdream.training.run_folder import RunFolder

pytestmark = pytest.mark.slow

STEPS, KILLS = 24, 20


@pytest.fixture(scope="module")
def server():
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="module")
def request_flags(tiny_sd1, photos):
    """STEPS steps, with a checkpoint after each, and with what a resume must restore: schedule, ramp, dropout."""
    return ["train", "--images", photos, "--class-noun", "toy", "--base", tiny_sd1, "--steps", STEPS, "--rank", 4,
            "--batch-size", 1, "--lr", "1e-3", "--lr-schedule", "cosine", "--warmup", 0.2, "--ramp", 0.5, "--dropout",
            0.1, "--checkpoint-every", 1, "--sample-every", 0, "--device", "cpu"]  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(server, request_flags, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    child = server.start(*request_flags, "-o", folder / "run", log=folder / "said")
    assert child.wait() == 0, child.said
    return RunFolder.open(folder / "run")


def assert_same_adapter(run, unbroken):
    ours, theirs = adapter_tensors(run), adapter_tensors(unbroken)
    assert ours.keys() == theirs.keys() and ours
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def metrics(run):
    return [json.loads(line) for line in run.metrics.read_text().splitlines()]


def assert_as_unbroken(run, unbroken):
    """Same adapter to the last bit, same losses, every step once, nothing half written left behind."""
    assert_same_adapter(run, unbroken)
    assert [line["step"] for line in metrics(run)] == list(range(1, STEPS + 1))
    for key in ("loss", "grad_norm", "lr", "u"):
        assert [line[key] for line in metrics(run)] == [line[key] for line in metrics(unbroken)]
    assert run.read_state() | {"pid": 0} == unbroken.read_state() | {"pid": 0}
    assert [p for p in run.path.rglob(".*")] == []
    assert len(list_checkpoints(run.checkpoints)) == 2


class Killer:
    """Starts and resumes one run, and kills it at instants drawn from `random`."""

    def __init__(self, server, flags, run, random):
        self.server, self.flags, self.run, self.random = server, flags, run, random
        self.resumed_at = []  # None where it was killed before it said so
        self.kills = self.inside_checkpoints = 0

    def start(self):
        begun = self.run.config.exists()
        argv = ["train", "--resume", self.run.path] if begun else [*self.flags, "-o", self.run.path]
        child = self.server.start(*argv, log=self.run.path.with_name("said"))
        return child, begun

    def note(self, child, begun):
        if begun:
            said = re.search(r"resumed at step (\d+)", child.said)
            self.resumed_at.append(int(said[1]) if said else None)

    def attempt(self, kind):
        """One start and one kill of this kind; True if the run finished before it came."""
        child, begun = self.start()
        instant = {"startup": self.startup, "step": self.step, "checkpoint": self.checkpoint}[kind](child)
        code = None
        for _ in instant:
            time.sleep(0.0005)
            if (code := child.poll()) is not None:
                break
        if code is None:
            os.kill(child.pid, signal.SIGKILL)
            code = child.wait()
        self.note(child, begun)
        assert code in (-signal.SIGKILL, 0), child.said
        self.kills += code != 0
        self.inside_checkpoints += any(self.run.checkpoints.glob(".step-*"))
        return code == 0

    # Each yields until its instant has come.

    def startup(self, child):
        end = time.monotonic() + self.random.uniform(0, 2)
        while time.monotonic() < end:
            yield

    def step(self, child):
        goal = self.newest() + self.random.randint(1, 2)
        while self.newest() < goal:
            yield
        end = time.monotonic() + self.random.uniform(0, 0.3)
        while time.monotonic() < end:
            yield

    def checkpoint(self, child):
        goal = self.newest() + self.random.randint(0, 2)
        mine = f"*.{child.pid}.tmp"
        while self.newest() < goal or not any(self.run.checkpoints.glob(f".step-{mine}")):
            yield
        time.sleep(self.random.choice([0, 0.001, 0.003, 0.01]))

    def newest(self):
        return max(map(step_of, list_checkpoints(self.run.checkpoints)), default=0)


def test_a_run_killed_20_times_at_random_instants_ends_as_if_it_never_was(server, request_flags, unbroken, tmp_path):
    kinds = random.Random(0)
    resumed_at, kills, inside, runs = [], 0, 0, []
    while kills < KILLS:  # a run may come through before it was killed often enough: then the next one is
        folder = tmp_path / f"{len(runs)} é"
        folder.mkdir()
        killer = Killer(server, request_flags, RunFolder(folder / "run"), kinds)
        runs.append(killer.run)
        finished = False
        while not finished and kills + killer.kills < KILLS:
            finished = killer.attempt(kinds.choice(["startup", "step", "checkpoint", "checkpoint"]))
        if not finished:
            child, begun = killer.start()
            assert child.wait() == 0, child.said
            killer.note(child, begun)
        kills, inside = kills + killer.kills, inside + killer.inside_checkpoints
        resumed_at += killer.resumed_at
    print(f"{kills} kills, {inside} inside a checkpoint, {len(runs)} runs, resumed at {resumed_at}")
    for run in runs:
        assert_as_unbroken(run, unbroken)
    assert kills >= KILLS
    assert inside >= 3, "kills must fall into the writing of checkpoints"
    beyond = [step for step in resumed_at if step]
    assert len(beyond) >= len(resumed_at) / 2, f"most resumes must start beyond step 0: {resumed_at}"


def killed_after(server, flags, run, step, cwd=None):
    """Start a run and kill it once it has checkpoints of `step` and of the one before."""
    child = server.start(*flags, "-o", run.path, log=run.path.with_name("said"), cwd=cwd)
    child.wait_until(lambda: (run.checkpoints / f"step-{step}").exists())
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


def resume(server, run):
    return resumed(server, run, run.path.with_name("said"))


def resumed(server, run, log):
    child = server.start("train", "--resume", run.path, log=log)
    assert child.wait() == 0, child.said
    return child.said


@pytest.fixture(scope="module")
def cut_short(server, request_flags, tmp_path_factory):
    """A run killed after 3 to 5 of its steps; tests work on copies."""
    run = RunFolder(tmp_path_factory.mktemp("cut short") / "run")
    killed_after(server, request_flags, run, 3)
    return run


@pytest.fixture
def killed(cut_short, tmp_path):
    """A copy of `cut_short`: also what somebody does who moves a run to another disk."""
    shutil.copytree(cut_short.path, tmp_path / "run")
    return RunFolder(tmp_path / "run")


CUTS = {
    "to nothing": lambda size: 0,
    "to one byte": lambda size: 1,
    "in half": lambda size: size // 2,
    "by one byte": lambda size: size - 1,
}


@pytest.mark.parametrize("cut", [*CUTS, "away"])
def test_a_damaged_newest_checkpoint_costs_its_own_steps_only(server, unbroken, killed, cut):
    before, newest = list_checkpoints(killed.checkpoints)[-2:]
    for path in newest.iterdir():
        if cut == "away":
            path.unlink()
        else:
            os.truncate(path, CUTS[cut](path.stat().st_size))
    said = resume(server, killed)
    assert f"{newest} is damaged" in said and f"resumed at step {step_of(before)}" in said
    assert_as_unbroken(killed, unbroken)


def test_damage_to_every_other_file_but_the_settings_changes_nothing_in_the_adapter(server, unbroken, killed):
    for path in (killed.state, killed.env, killed.log):
        os.truncate(path, 0)
    os.truncate(killed.metrics, killed.metrics.stat().st_size - 7)
    newest = list_checkpoints(killed.checkpoints)[-1]
    said = resume(server, killed)
    assert f"{killed.env} is damaged" in said and f"resumed at step {step_of(newest)}" in said
    assert_same_adapter(killed, unbroken)
    steps = [line["step"] for line in metrics(killed)]
    assert steps == sorted(set(steps)) and set(range(step_of(newest) + 1, STEPS + 1)) <= set(steps)
    assert killed.read_state()["status"] == "finished" and json.loads(killed.env.read_text())["base"]


def test_a_run_begun_with_relative_paths_resumes_from_another_place(server, request_flags, unbroken, tmp_path):
    images, base = request_flags[2], request_flags[request_flags.index("--base") + 1]
    there = tmp_path / "there"
    there.mkdir()
    shutil.copytree(images, there / "photos")
    os.symlink(base, there / "base", target_is_directory=True)
    flags = [{images: "photos", base: "base"}.get(flag, flag) for flag in request_flags]
    killed_after(server, flags, RunFolder(there / "run"), 2, cwd=there)
    moved = RunFolder(tmp_path / "elsewhere" / "moved")
    moved.path.parent.mkdir()
    os.rename(there / "run", moved.path)
    resume(server, moved)
    assert_as_unbroken(moved, unbroken)


def test_a_second_process_is_refused_while_the_first_lives_and_free_once_it_is_killed(server, killed, tmp_path):
    first = server.start("train", "--resume", killed.path, log=tmp_path / "first")
    first.wait_until(lambda: "resumed at" in first.said)
    second = server.start("train", "--resume", killed.path, log=tmp_path / "second")
    assert second.wait() == 2
    assert f"is in use by another process (pid {first.pid})" in second.said
    assert killed.read_state()["pid"] == first.pid
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    third = server.start("train", "--resume", killed.path, log=tmp_path / "third")
    third.wait_until(lambda: "resumed at" in third.said)
    os.kill(third.pid, signal.SIGKILL)
    third.wait()


def test_sigterm_before_the_first_step_ends_a_resumed_run_as_stopped_and_a_new_one_without_trace(
    server, request_flags, unbroken, killed, tmp_path
):
    child = server.start("train", "--resume", killed.path, log=tmp_path / "said")
    child.wait_until(lambda: killed.read_state().get("pid") == child.pid)
    time.sleep(0.1)  # in the loading of the base
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 130, child.said
    assert killed.read_state()["status"] == "stopped" and "resumed at" not in child.said
    resume(server, killed)
    assert_as_unbroken(killed, unbroken)

    new = RunFolder(tmp_path / "new")
    child = server.start(*request_flags, "-o", new.path, log=tmp_path / "said")
    child.wait_until(lambda: new.state.exists())
    time.sleep(0.1)
    os.kill(child.pid, signal.SIGTERM)
    assert child.wait() == 130, child.said
    assert not new.path.exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 24 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small file system: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


def fill(disk, leave):
    """Take all the room of `disk` but `leave` bytes; returns the file that takes it."""
    ballast = disk / "ballast"
    free = shutil.disk_usage(disk).free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return ballast


@pytest.mark.parametrize("room", [0, 0.2, 0.8])  # of a checkpoint
def test_a_full_disk_ends_the_run_and_with_room_again_it_goes_on_exactly(
    server, request_flags, unbroken, small_disk, tmp_path, room
):
    run = RunFolder(small_disk / "run")
    child = server.start(*request_flags, "-o", run.path, log=tmp_path / "said")
    child.wait_until(lambda: len(list_checkpoints(run.checkpoints)) >= 2)
    size = sum(path.stat().st_size for path in list_checkpoints(run.checkpoints)[0].iterdir())
    ballast = fill(small_disk, int(room * size))
    assert child.wait() == 1, child.said
    assert f"Could not write {run.path}" in child.said and "No space left on device" in child.said
    assert "make room" in child.said and "Traceback" not in child.said, child.said
    newest = newest_intact(run.checkpoints)
    assert newest is not None
    ballast.unlink()
    assert f"resumed at step {step_of(newest)}" in resumed(server, run, tmp_path / "said")
    assert_as_unbroken(run, unbroken)


def test_a_disk_full_from_the_start_leaves_nothing_behind(server, request_flags, small_disk, tmp_path):
    fill(small_disk, 0)
    child = server.start(*request_flags, "-o", small_disk / "run", log=tmp_path / "said")
    assert child.wait() in (1, 2), child.said
    assert "No space left on device" in child.said and "Traceback" not in child.said
    assert not (small_disk / "run").exists()
