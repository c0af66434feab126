import json
import multiprocessing
import shlex
import threading
import time

import pytest
from helpers.disk import file_size_limit

from symdream.errors import RequestError, WorkError
from symdream.training.run_folder import RunFolder, new_run_path


def make_run(path):
    run = RunFolder.create(path)
    run.config.write_text("")
    return run


def test_an_existing_folder_is_never_written_over(tmp_path):
    make_run(tmp_path / "run")
    with pytest.raises(RequestError, match="exists"):
        RunFolder.create(tmp_path / "run")


def test_overwrite_replaces_a_run_but_nothing_else(tmp_path):
    make_run(tmp_path / "run")
    (tmp_path / "run" / "old").write_text("")
    run = RunFolder.create(tmp_path / "run", overwrite=True)
    assert (run.path / "old").exists()  # nothing has begun
    run.acquire()
    assert not (run.path / "old").exists()
    run.config.write_text("")
    run.drop_replaced()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    run.release()
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years")
    with pytest.raises(RequestError, match="not a run folder"):
        RunFolder.create(precious, overwrite=True)
    assert (precious / "chapter.txt").read_text() == "years"


@pytest.mark.parametrize("linked", [False, True])
def test_what_was_to_be_replaced_comes_back_if_the_new_run_never_begins(tmp_path, linked):
    place = tmp_path / "run"
    if linked:
        (tmp_path / "big disk").mkdir()
        place.symlink_to("big disk")
    make_run(place)
    (place / "old").write_text("precious")
    run = RunFolder.create(place, overwrite=True)
    run.acquire()
    run.config.write_text("new")
    run.remove()
    run.release()
    assert (place / "old").read_text() == "precious" and run.config.read_text() == ""
    assert place.is_symlink() == linked
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_overwrite_through_a_link_replaces_the_run_that_it_leads_to(tmp_path):
    disk, link = tmp_path / "big disk", tmp_path / "run"
    link.symlink_to(disk / "real")
    disk.mkdir()
    (disk / "real").mkdir()
    (make_run(link).path / "old").touch()
    run = RunFolder.create(link, overwrite=True)
    run.acquire()
    run.config.write_text("new")
    run.drop_replaced()
    run.release()
    assert link.is_symlink() and (disk / "real" / "config.toml").read_text() == "new"
    assert sorted(path.name for path in link.iterdir()) == ["config.toml", "lock"]
    assert [path.name for path in disk.iterdir()] == ["real"] and sorted(tmp_path.iterdir()) == [disk, link]


def test_a_run_put_aside_through_a_link_comes_back_where_it_leads(tmp_path, capsys):
    """As by a process that was killed right after it had put the run aside."""
    link = tmp_path / "run"
    link.symlink_to("real")
    aside = tmp_path / ".real.old-x1" / "real"
    aside.mkdir(parents=True)
    make_run(aside)
    assert RunFolder.open(link).config.exists() and "is there again" in capsys.readouterr().err
    assert link.is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == ["real", "run"]


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


def _hold(path, ready, done):
    run = RunFolder(path)
    run.acquire()
    run.write_state("running", step=1, steps=2)
    ready.set()
    done.wait(20)


def test_a_run_that_another_process_trains_is_refused_with_its_pid(tmp_path):
    run = make_run(tmp_path / "a run")
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run.path, ready, done))
    process.start()
    assert ready.wait(60)
    try:
        with pytest.raises(RequestError, match=f"pid {process.pid}") as told:
            run.acquire()
        command = told.value.fix.partition("stop it: ")[2]
        assert shlex.split(command) == ["touch", str(run.path / "stop")]
        with pytest.raises(RequestError, match="another process"):
            RunFolder.create(run.path, overwrite=True)
    finally:
        done.set()
        process.join()
    run.acquire()  # the lock ends with its process


def test_metrics_after_the_checkpoint_and_cut_lines_are_dropped(tmp_path):
    run = make_run(tmp_path / "run")
    for step in range(1, 6):
        run.record(step=step, loss=0.5)
    run.flush()
    with run.metrics.open("a") as file:
        file.write('{"step": 6, "lo')
    run.truncate_metrics(3)
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == [1, 2, 3]


def test_metrics_reach_the_disk_whole_or_not_at_all(tmp_path):
    run = make_run(tmp_path / "run")
    run.record(step=1, loss=0.5)
    run.flush()
    for step in range(2, 20):
        run.record(step=step, loss=0.5)
    with file_size_limit(200), pytest.raises(WorkError, match=r"metrics\.jsonl: File too large"):
        run.flush()
    assert len(run.metrics.read_text().splitlines()) == 1
    run.flush()
    assert [json.loads(line)["step"] for line in run.metrics.read_text().splitlines()] == list(range(1, 20))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"status": "fin', "\0" * 40])
def test_a_damaged_state_or_summary_counts_as_none(tmp_path, content):
    run = make_run(tmp_path / "run")
    run.state.write_text(content)
    run.summary.write_text(content)
    assert run.read_state() == {} and run.read_summary() == {}
    run.update_summary(steps=3)
    assert run.read_summary() == {"steps": 3}


def test_the_lock_removes_what_a_killed_process_left_half_written(tmp_path):
    run = make_run(tmp_path / "run")
    halves = (".adapter.7.tmp/unet", ".adapter.7.old/unet", "checkpoints/.step-5.7.tmp", "checkpoints/.step-1.7.old")
    for name in halves:
        (run.path / name).mkdir(parents=True)
    (run.path / "checkpoints" / ".step-5.7.tmp" / "state.json").write_text("{")
    (run.path / ".state.json.7.tmp").write_text("{")
    (run.path / "checkpoints" / "step-4").mkdir()
    (run.path / "adapter").mkdir()
    (run.path / ".mine").write_text("a user's own")
    run.acquire()
    left = sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*"))
    assert left == [".mine", "adapter", "checkpoints", "checkpoints/step-4", "config.toml", "lock"]


def test_the_lock_puts_an_adapter_back_that_a_process_killed_between_two_renames_had_put_aside(tmp_path):
    run = make_run(tmp_path / "run")
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


def test_a_look_at_the_lock_tells_who_trains_and_hinders_nobody(tmp_path):
    run = make_run(tmp_path / "run")
    assert not run.is_locked()  # no lock file yet
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(run.path, ready, done))
    process.start()
    assert ready.wait(60) and run.is_locked()
    done.set()
    process.join()
    assert not run.is_locked()

    # Somebody who looks all the time holds the lock, shared, for an instant each: a trainer gets it all the same.
    stop = threading.Event()

    def look():
        while not stop.is_set():
            run.is_locked()
            time.sleep(0.005)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            run.acquire()
            run.release()
    finally:
        stop.set()
        watcher.join()
