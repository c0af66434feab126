import multiprocessing
import os
import shlex
import subprocess
import sys
from contextlib import contextmanager

import pytest
from helpers.runs import bare_run

from symdream.errors import RequestError
from symdream.files import write_json
from symdream.training.run_folder import RunFolder, new_run_path


def test_an_existing_folder_is_never_written_over(tmp_path):
    bare_run(tmp_path / "run")
    with pytest.raises(RequestError, match="exists"):
        RunFolder.create(tmp_path / "run")


def test_a_run_begins_where_a_link_leads_that_nothing_is_at_yet(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "big disk" / "real")
    run = RunFolder.create(tmp_path / "run")
    run.acquire()
    run.release()
    assert (tmp_path / "big disk" / "real" / "lock").exists() and (tmp_path / "run").is_symlink()


def test_a_linked_folder_stays_when_its_run_never_begins(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "run").symlink_to("big disk")
    run = RunFolder.create(tmp_path / "run")
    run.acquire()
    run.samples.mkdir()
    run.remove()
    run.release()
    assert (tmp_path / "run").is_symlink() and list((tmp_path / "big disk").iterdir()) == []


def _hold(path, trains, ready, done):
    run = RunFolder(path)
    run.acquire()
    if trains:
        run.write_state("running", step=1, steps=2)
    ready.set()
    done.wait(20)


@contextmanager
def in_use(run, *, trains):
    """While entered, another process has the run's lock, to train or to evaluate."""
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run.path, trains, ready, done))
    process.start()
    assert ready.wait(60)
    try:
        yield process
    finally:
        done.set()
        process.join()


def test_a_run_that_another_process_trains_is_refused_with_its_pid(tmp_path):
    run = bare_run(tmp_path / "a run")
    with in_use(run, trains=True) as process:
        with pytest.raises(RequestError, match=f"pid {process.pid}") as told:
            run.acquire()
        command = told.value.fix.partition("stop it: ")[2]
        assert shlex.split(command) == ["touch", str(run.path / "stop")]
        with pytest.raises(RequestError, match="another process"):
            RunFolder.create(run.path, overwrite=True)
    run.acquire()  # the lock ends with its process


@pytest.mark.parametrize("status", ["finished", "running"])
def test_a_run_that_another_process_evaluates_is_not_said_to_train(tmp_path, status):
    """Whoever trained it has ended, or was killed: neither its number nor its stop file is of use."""
    run = bare_run(tmp_path / "run")
    trainer = os.getpid()
    if status == "running":
        killed = subprocess.Popen([sys.executable, "-c", ""])
        killed.wait()
        trainer = killed.pid
    write_json(run.state, {"status": status, "pid": trainer, "step": 2, "steps": 2, "error": None})
    with in_use(run, trains=False), pytest.raises(RequestError) as told:
        run.acquire()
    assert (told.value.what, told.value.fix) == (f"{run.path} is in use by another process.", "wait for it")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "fin', "\0" * 40])
def test_a_damaged_state_or_summary_counts_as_none(tmp_path, content):
    run = bare_run(tmp_path / "run")
    run.state.write_text(content)
    run.summary.write_text(content)
    assert run.read_state() == {} and run.read_summary() == {}
    run.update_summary(steps=3)
    assert run.read_summary() == {"steps": 3}


def test_what_a_summary_is_not_told_anew_stays(tmp_path):
    run = bare_run(tmp_path / "run")
    run.update_summary(steps=3, scores={"dino": 0.5})
    run.update_summary(scores={"dino": 0.6})
    assert run.read_summary() == {"steps": 3, "scores": {"dino": 0.6}}


def test_seconds_count_this_command_and_what_those_before_it_took(tmp_path):
    run = bare_run(tmp_path / "run")
    assert 0 <= run.seconds() < 5
    run.count_seconds(age=100, before=1000)
    assert 1100 <= run.seconds() < 1105


@pytest.mark.parametrize(
    "fruit", ["metrics.jsonl", "checkpoints/step-1/state.json", "adapter/unet/adapter_config.json"]
)
def test_a_run_with_the_fruit_of_a_step_is_trained(tmp_path, fruit):
    run = bare_run(tmp_path / "run")
    run.samples.mkdir(), run.checkpoints.mkdir()
    assert not run.trained
    (run.path / fruit).parent.mkdir(parents=True, exist_ok=True)
    (run.path / fruit).touch()
    assert run.trained


def test_a_run_that_replaces_another_has_begun_when_that_one_is_gone(tmp_path):
    bare_run(tmp_path / "run")
    run = RunFolder.create(tmp_path / "run", overwrite=True)
    run.acquire()
    assert not run.began
    run.env.touch()
    assert not run.began  # the other one waits to be put back
    run.drop_replaced()
    assert run.began
    run.release()


def test_a_run_that_goes_on_is_loading_until_it_writes_its_metrics_anew(tmp_path):
    run = bare_run(tmp_path / "run")
    run.metrics.touch()
    os.utime(run.metrics, (1, 1))  # of the command before
    run.acquire()
    run.begin()
    assert run.is_loading
    later = (run.path / "lock").stat().st_mtime + 1
    os.utime(run.metrics, (later, later))
    assert not run.is_loading
    run.metrics.unlink()
    (run.path / "lock").unlink()  # as in a copy
    assert run.is_loading
    run.release()


def test_the_lock_removes_what_a_killed_process_left_half_written(tmp_path):
    run = bare_run(tmp_path / "run")
    halves = (".adapter.7.tmp/unet", ".adapter.7.old/unet", "checkpoints/.step-5.7.tmp", "checkpoints/.step-1.7.old")
    halves += ("samples/.step-00005.png.7.tmp",)
    for name in halves:
        (run.path / name).mkdir(parents=True)
    (run.path / "checkpoints" / ".step-5.7.tmp" / "state.json").write_text("{")
    (run.path / ".state.json.7.tmp").write_text("{")
    (run.path / "checkpoints" / "step-4").mkdir()
    (run.path / "adapter").mkdir()
    (run.path / ".mine").write_text("a user's own")
    run.acquire()
    left = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*"))
    assert left == [".mine", "adapter", "checkpoints", "checkpoints/step-4", "config.toml", "lock", "samples"]


def test_the_lock_puts_an_adapter_back_that_a_process_killed_between_two_renames_had_put_aside(tmp_path):
    run = bare_run(tmp_path / "run")
    (run.path / ".adapter.7.old" / "unet").mkdir(parents=True)
    (run.path / ".adapter.7.tmp" / "text_encoder").mkdir(parents=True)
    run.acquire()
    assert sorted(p.name for p in run.path.iterdir()) == ["adapter", "config.toml", "lock"]
    assert [p.name for p in run.adapter.iterdir()] == ["unet"]


def test_a_folder_killed_before_its_settings_were_written_is_free(tmp_path):
    run = RunFolder.create(tmp_path / "run")
    run.acquire()
    run.release()
    (run.path / ".config.toml.7.tmp").write_text("[mo")
    again = RunFolder.create(tmp_path / "run")
    again.acquire()
    assert [p.name for p in again.path.iterdir()] == ["lock"]


def test_new_runs_get_names_of_their_own(tmp_path):
    first = new_run_path(tmp_path, "owl")
    first.mkdir()
    second = new_run_path(tmp_path, "owl")
    second.mkdir()
    assert [first.name, second.name, new_run_path(tmp_path, "owl").name] == ["owl", "owl-2", "owl-3"]
