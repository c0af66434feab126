import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from helpers.runs import adapter_tensors, make_photos

from symdream.errors import Problems, RequestError, WorkError
from symdream.files import write_json
from symdream.training.run_folder import RunFolder
from symdream_apps import watching
from symdream_apps.run_status import RECENT, metrics, whence
from symdream_apps.runs import Keeper, Runs


def flags(base, **more):
    return {
        "base": str(base), "class_noun": "toy", "steps": 4, "batch_size": 1, "rank": 4, "checkpoint_every": 0,
        "tensorboard": False, "device": "cpu", **more,
    }  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs é")


@pytest.fixture
def fill():
    return lambda folder: make_photos(folder)


def state(runs, name, **values):
    write_json(runs.folder / name / "state.json", {"pid": None, "step": 0, "steps": 4, "error": None, **values})


def empty_run(runs, name, **values):
    (runs.folder / name).mkdir(parents=True)
    (runs.folder / name / "config.toml").write_text("")
    state(runs, name, **values)
    return RunFolder(runs.folder / name)


def test_a_run_that_is_added_waits_with_complete_settings_and_its_own_photos(runs, fill, tiny_sd1):
    name = runs.add("my toy", flags(tiny_sd1), "quick", fill)
    assert name == "my toy" and runs.queue() == ["my toy"]
    status = runs.status(name)
    assert (status.status, status.place, status.steps) == ("queued", 1, 4)
    from symdream.training.request import settings_of

    config = settings_of(runs.get(name))
    assert config.subject.images == (runs.folder / name / "photos").resolve()
    assert len(list(config.subject.images.glob("*.png"))) == 3
    assert runs.add("my toy", flags(tiny_sd1), None, fill) == "my toy-2"
    assert [runs.status(n).place for n in ("my toy", "my toy-2")] == [1, 2]


def test_a_wrong_request_is_told_whole_and_leaves_nothing(runs, fill, tiny_sd1):
    with pytest.raises(Problems) as caught:
        runs.add("toy", {**flags(tiny_sd1), "class_noun": None, "rank": 0, "steps": -1}, None, fill)
    assert len(caught.value.problems) == 3
    assert runs.names() == [] and not (runs.folder / "toy").exists()


def test_a_full_disk_is_told_and_leaves_nothing(runs, tiny_sd1):
    def full(folder):
        raise OSError(28, "No space left on device")

    with pytest.raises(WorkError, match="No space left"):
        runs.add("toy", flags(tiny_sd1), None, full)
    assert not (runs.folder / "toy").exists()


@pytest.mark.parametrize("name", ["..", ".", "", "../x", "/etc", "a/b", ".app", ".trash", "no such run", None, "x\0y"])
def test_a_name_is_no_path(runs, name):
    empty_run(runs, "owl", status="finished")
    with pytest.raises(RequestError, match="no run"):
        runs.get(name)


def test_a_link_out_of_the_folder_is_no_run(runs, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "config.toml").write_text("")
    empty_run(runs, "owl", status="finished")
    (runs.folder / "link").symlink_to(outside)
    assert runs.names() == ["owl"]
    with pytest.raises(RequestError):
        runs.get("link")


def test_a_lock_that_is_held_means_running_and_a_stop_file_stopping(runs):
    run = empty_run(runs, "owl", status="running", pid=os.getpid())
    run.acquire()
    with run.metrics.open("w") as file:
        for step in (1, 2, 3):
            file.write(json.dumps({"step": step, "loss": 0.5, "seconds": 2.0}) + "\n")
        file.write('{"step": 4, "lo')
    status = runs.status("owl")
    assert (status.status, status.step, status.seconds_left) == ("running", 3, 2.0)
    runs.stop("owl")
    assert run.stop_file.exists() and runs.status("owl").status == "stopping"
    with pytest.raises(RequestError, match="is stopping"):
        runs.delete("owl")
    with pytest.raises(RequestError, match="is stopping"):
        runs.rename("owl", "hawk")
    run.release()


def test_a_lock_on_a_finished_run_is_an_evaluation(runs):
    run = empty_run(runs, "owl", status="finished", step=4)
    run.acquire()
    assert runs.status("owl").status == "evaluating" and runs.start_next() is None
    run.release()
    assert runs.status("owl").status == "finished"


def dead_process():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_free_lock_and_no_process_mean_killed(runs):
    run = empty_run(runs, "owl", status="running", pid=dead_process(), step=3)
    (run.checkpoints / "step-2").mkdir(parents=True)
    status = runs.status("owl")
    assert status.status == "killed" and status.resumable
    assert "ended without a word at step 3 of 4" in status.error and "from step 2" in status.error


def write_metrics(run, last):
    run.metrics.write_text("".join(json.dumps({"step": n, "loss": 0.5}) + "\n" for n in range(1, last + 1)))


def test_a_run_that_broke_off_tells_the_step_it_reached_and_goes_on_from_the_one_it_saved(runs, fill, tiny_sd1):
    for name, status in (("killed", "running"), ("failed", "failed")):
        run = empty_run(runs, name, status=status, pid=dead_process(), step=100, steps=200)
        (run.checkpoints / "step-100").mkdir(parents=True)
        write_metrics(run, 169)
        run.acquire()  # as an evaluation does
        run.release()
        status = runs.status(name)
        assert (status.status, status.step, status.seconds_left) == (name, 169, None)
        said = watching.sentence(runs, status)
        assert "step 169 of 200" in said and "goes on from step 100" in said

    name = runs.add("toy", flags(tiny_sd1), None, fill)
    state(runs, name, status="running", pid=dead_process(), step=2)
    write_metrics(runs.get(name), 3)
    runs.resume(name)
    assert runs.status(name).step == 2
    runs.stop(name)
    assert "stopped after step 2 of 4" in watching.sentence(runs, runs.status(name))


def test_a_run_that_goes_on_loads_until_its_own_first_step(runs):
    """The lines of the process before it are there, and tell nothing of this one."""
    run = empty_run(runs, "owl", status="running", pid=os.getpid(), step=100, steps=200)
    write_metrics(run, 169)
    os.utime(run.metrics, (time.time() - 60,) * 2)
    run.acquire()
    run.begin()
    status = runs.status("owl")
    assert (status.status, status.step, status.seconds_left) == ("running", 100, None)
    said = watching.sentence(runs, status)
    assert "loads the base and the photos; it goes on from step 100." in said and "<progress" not in said

    run.lines.truncate(100)  # as the trainer does before its first step
    assert "trains: step 100 of 200" in watching.sentence(runs, runs.status("owl"))
    write_metrics(run, 101)
    assert "trains: step 101 of 200" in watching.sentence(runs, runs.status("owl"))

    os.utime(run.metrics, (time.time() - 60,) * 2)
    run.release()
    state(runs, "owl", status="running", pid=dead_process(), step=100, steps=200)
    assert "ended without a word at step 100" in runs.status("owl").error, "it was killed while it loaded"


def test_the_error_of_a_run_names_no_place_of_this_machine_and_no_flags(runs):
    run = empty_run(runs, "owl", status="failed", step=2)
    error = WorkError(f"Could not write {run.path}/x.", where=str(run.path / "x"), fix="take a lower --lr\n  --rank 2")
    state(runs, "owl", status="failed", error=str(error))
    told = "Could not write owl/x.\n  where: owl/x\n  fix:   take a lower learning rate\n  rank 2"
    assert runs.status("owl").error == told


def test_a_younger_process_of_the_same_number_is_not_the_trainer(runs):
    run = empty_run(runs, "owl", status="running", pid=os.getpid())
    assert runs.status("owl").status == "starting"
    born = psutil.Process().create_time()
    os.utime(run.state, (born - 60, born - 60))
    assert runs.status("owl").status == "killed"


def test_stop_takes_a_waiting_run_out_and_resume_puts_it_back_last(runs, fill, tiny_sd1):
    for name in ("a", "b"):
        runs.add(name, flags(tiny_sd1), None, fill)
    runs.stop("a")
    assert runs.queue() == ["b"] and runs.status("a").status == "stopped"
    runs.resume("a")
    assert runs.queue() == ["b", "a"]
    with pytest.raises(RequestError, match="nothing to resume"):
        runs.resume("a")


def test_nothing_starts_beside_a_run_at_work(runs, fill, tiny_sd1):
    other = empty_run(runs, "from the terminal", status="running")
    other.acquire()
    runs.add("toy", flags(tiny_sd1), None, fill)
    assert runs.start_next() is None and runs.status("toy").status == "queued"
    other.release()


def test_a_run_whose_photos_are_gone_fails_with_the_reason_and_the_next_is_looked_at(runs, fill, tiny_sd1):
    runs.add("toy", flags(tiny_sd1), None, fill)
    shutil.rmtree(runs.folder / "toy" / "photos")
    assert runs.start_next() is None
    status = runs.status("toy")
    assert status.status == "failed" and "photos of this run are gone" in status.error


def test_one_look_at_the_queue_goes_on_behind_a_run_that_cannot_start(runs, fill, tiny_sd1):
    for name in ("a", "b"):
        runs.add(name, flags(tiny_sd1), None, fill)
        shutil.rmtree(runs.folder / name / "photos")
    assert runs.start_next() is None
    assert [runs.status(name).status for name in ("a", "b")] == ["failed", "failed"]


def test_a_run_whose_photos_are_gone_is_not_put_back_into_the_queue(runs, fill, tiny_sd1):
    runs.add("toy", flags(tiny_sd1), None, fill)
    runs.stop("toy")
    shutil.rmtree(runs.folder / "toy" / "photos")
    with pytest.raises(RequestError, match="photos of this run are gone"):
        runs.resume("toy")
    assert runs.status("toy").status == "stopped"


def test_the_queue_is_looked_after_again_once_what_was_in_its_way_is_mended(runs, fill, tiny_sd1):
    runs.add("toy", flags(tiny_sd1), None, fill)
    shutil.rmtree(runs.folder / "toy" / "photos")  # so that nothing trains here
    runs.home.rename(runs.folder / ".away")
    runs.home.write_text("")
    keeper = Keeper(runs, seconds=0.01).start()
    time.sleep(0.2)
    assert runs.status("toy").status == "queued"
    runs.home.unlink()
    try:
        until(lambda: runs.status("toy").status == "failed", seconds=20)
    finally:
        keeper.end()


def test_the_busy_come_first_then_the_queue_in_its_turn_then_who_changed_last(runs):
    steps = {"old": "finished", "next": "queued", "later": "queued", "new": "stopped", "at work": "running"}
    for age, (name, status) in enumerate(reversed(steps.items())):
        run = empty_run(runs, name, status=status)
        os.utime(run.state, (time.time() - 10 * age,) * 2)
    busy = runs.get("at work")
    busy.acquire()
    os.utime(busy.state, (time.time() - 1000,) * 2)
    assert runs.names() == ["new", "later", "next", "old", "at work"]
    assert [(s.name, s.place) for s in runs.statuses()] == [
        ("at work", 0), ("next", 1), ("later", 2), ("new", 0), ("old", 0)
    ]  # fmt: skip
    busy.release()


def test_the_time_left_goes_by_the_usual_one_of_the_last_steps(runs):
    """Not by the first, which warms up, nor by one that drew pictures, nor by how fast it once was."""
    run = empty_run(runs, "owl", status="running", pid=os.getpid(), steps=60)
    run.acquire()
    seconds = [500.0, *[9.0] * 30, *[2.0] * (RECENT - 1), 300.0]
    lines = [json.dumps({"step": n, "loss": 0.5, "seconds": s}) for n, s in enumerate(seconds, 1)]
    for count, each in ((51, 2.0), (2, 9.0), (3, 9.0)):
        run.metrics.write_text("\n".join(lines[:count]))
        assert runs.status("owl").seconds_left == each * (60 - count)
    run.release()


@pytest.mark.parametrize("status", ["stopped", "failed", "killed"])
def test_a_run_that_did_not_end_goes_on_from_the_newest_of_its_checkpoints(runs, fill, tiny_sd1, status):
    name = runs.add("toy", flags(tiny_sd1), None, fill)
    for step in (9, 10, 2):
        (runs.get(name).checkpoints / f"step-{step}").mkdir(parents=True)
    assert whence(runs.get(name)) == "from step 10, its newest checkpoint"
    pid = dead_process()
    state(runs, name, status="running" if status == "killed" else status, pid=pid, step=10)
    assert runs.status(name).status == status
    runs.resume(name)
    assert runs.queue() == [name]


def test_a_process_that_ended_and_is_not_yet_waited_for_is_not_the_trainer(runs):
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    empty_run(runs, "owl", status="running", pid=process.pid)
    assert runs.status("owl").status == "killed"
    process.wait()


def test_the_queue_waits_for_whoever_holds_its_lock(runs, fill, tiny_sd1):
    runs.add("toy", flags(tiny_sd1, class_noun="toy"), None, fill)
    descriptor = os.open(runs.home / "queue.lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    thread = threading.Thread(target=runs.stop, args=("toy",))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive() and runs.queue() == ["toy"]
    os.close(descriptor)
    thread.join(10)
    assert not thread.is_alive() and runs.queue() == []


def test_a_renamed_run_still_finds_its_photos(runs, fill, tiny_sd1):
    from symdream.training.request import settings_of

    runs.add("toy", flags(tiny_sd1), None, fill)
    runs.rename("toy", "my robot é")
    assert runs.names() == ["my robot é"]
    config = settings_of(runs.get("my robot é"))
    assert config.subject.images.parent.name == "my robot é" and config.output.output.name == "my robot é"


def test_photos_elsewhere_stay_where_they_are_when_a_run_is_renamed(runs, tiny_sd1, tmp_path):
    from symdream.training.request import settings_of

    photos = make_photos(tmp_path / "photos")
    runs.add("toy", {**flags(tiny_sd1), "images": photos}, None, None)
    runs.rename("toy", " robot ")
    runs.rename("robot", "robot")
    assert runs.names() == ["robot"] and settings_of(runs.get("robot")).subject.images == photos


UNREADABLE = [b"not TOML", b"[foreign]\nkey = 1", b"subjects = [1]", b"training = 1", b"[training]\nsteps = 0", b"\xff"]


@pytest.mark.parametrize("config", UNREADABLE)
def test_a_run_whose_settings_cannot_be_read_is_renamed_with_them_as_they_are(runs, config):
    empty_run(runs, "one", status="finished").config.write_bytes(config)
    runs.rename("one", "two")
    assert runs.names() == ["two"] and runs.get("two").config.read_bytes() == config


@pytest.mark.parametrize("config", UNREADABLE)
def test_a_run_whose_photos_would_be_lost_keeps_its_name(runs, config):
    """Those that lie in the run are found by its settings alone, so a new name must be written there too."""
    run = empty_run(runs, "one", status="finished")
    run.config.write_bytes(config)
    make_photos(run.path / "photos")
    with pytest.raises(RequestError, match="cannot be renamed") as caught:
        runs.rename("one", "two")
    assert str(run.config) in caught.value.where and "config.toml" in caught.value.fix
    assert runs.names() == ["one"]


def test_a_disk_that_is_full_half_way_leaves_the_old_name(runs, fill, tiny_sd1, monkeypatch):
    runs.add("toy", flags(tiny_sd1), None, fill)
    before = runs.get("toy").config.read_bytes()

    def full(path, text):
        raise WorkError("The disk is full.")

    monkeypatch.setattr("symdream_apps.runs.write_text", full)
    with pytest.raises(WorkError):
        runs.rename("toy", "robot")
    assert runs.names() == ["toy"] and runs.get("toy").config.read_bytes() == before


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "x" * 200, "a\nb", "other"])
def test_a_run_is_not_renamed_to_what_is_no_name_or_taken(runs, name):
    empty_run(runs, "owl", status="finished")
    empty_run(runs, "other", status="finished")
    with pytest.raises(RequestError):
        runs.rename("owl", name)
    assert sorted(runs.names()) == ["other", "owl"]


def test_deleting_moves_to_the_trash_and_never_over_another(runs):
    for content in ("first", "second"):
        empty_run(runs, "owl", status="finished")
        (runs.folder / "owl" / "note").write_text(content)
        runs.delete("owl")
    assert runs.names() == []
    assert sorted((p / "note").read_text() for p in runs.trash.iterdir()) == ["first", "second"]


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return value


@pytest.mark.slow
def test_a_queue_of_two_trains_one_after_the_other_through_stop_kill_and_resume(runs, fill, tiny_sd1, tmp_path):
    """Two Runs on one folder are two apps."""
    other_app = Runs(runs.folder)
    for name in ("a", "b"):
        runs.add(name, flags(tiny_sd1, steps=300, lr=1e-3, checkpoint_every=1, seed=3), None, fill)
    assert runs.start_next() == "a"
    assert other_app.start_next() is None, "the first is starting"
    assert runs.stop("a").startswith("a ends after")  # asked before it had its lock
    stopped = until(lambda: (s := runs.status("a")).status == "stopped" and s)
    assert 0 < stopped.step < 300

    assert other_app.start_next() == "b"
    until(lambda: metrics(runs.get("b")))  # the curve is there while it trains
    pid = runs.get("b").read_state()["pid"]
    os.kill(pid, signal.SIGKILL)
    killed = until(lambda: (s := other_app.status("b")).status == "killed" and s)
    assert "Resume" in killed.error
    other_app.start_next()  # no zombie is left
    assert not psutil.pid_exists(pid)

    # The rest would take minutes: it is enough to go on a little from where the first was stopped.
    config = runs.get("a").config
    config.write_text(config.read_text().replace("steps = 300", f"steps = {stopped.step + 2}"))
    runs.resume("a")
    assert runs.start_next() == "a"
    until(lambda: runs.status("a").status == "finished")
    assert f"resumed at step {stopped.step}" in (runs.folder / "a" / "terminal.txt").read_text()
    assert adapter_tensors(runs.get("a"))
