"""Real worker processes, without a base: what goes wrong in them is told by the parent."""

import os
import shutil
import signal
import threading
import time

import pytest
from helpers.grids import make_subjects
from helpers.interrupted import Interrupting

from symdream.bench.grid import build
from symdream.bench.lock import locked
from symdream.bench.workers import Died, Workers
from symdream.bench.workshop import Workshop
from symdream.errors import RequestError, WorkError


@pytest.fixture(scope="module")
def grid():
    return build({"tune": False, "methods": ["lora"], "subjects": ["owl"]})


def test_an_error_of_a_task_comes_whole_from_its_worker(grid, tmp_path):
    grid = grid.model_copy(update={"base": "/no/such"})
    with locked(tmp_path) as lock, Workers(1, grid, tmp_path, lock) as workers:
        results = [result for _, result, _ in workers.do([(Workshop.draw, (["an owl"], [0]), {})] * 2)]
    assert all(type(result) is RequestError and "/no/such" in result.what for result in results)


def test_subjects_that_are_gone_are_told_as_the_error_of_the_task(tmp_path):
    """The worker lives on: it is not hired anew for each task."""
    data = make_subjects(tmp_path / "data")
    grid = build({"tune": False, "methods": ["lora"], "data": data})
    shutil.rmtree(data)
    with locked(tmp_path) as lock, Workers(1, grid, tmp_path, lock) as workers:
        results = [(result, list(workers._staff)) for _, result, _ in workers.do([(Workshop.draw, ((), ()), {})] * 3)]
    assert all(type(result) is RequestError and str(data) in str(result) for result, _ in results)
    assert all(staff == results[0][1] for _, staff in results)


class Deadly:
    """An argument that ends the process which receives it."""

    def __reduce__(self):
        return os._exit, (3,)


def test_workers_that_all_die_at_their_first_task_are_not_replaced_for_ever(grid, tmp_path):
    """Two were at work, and one took the place of the first to die."""
    results = []
    with locked(tmp_path) as lock, Workers(2, grid, tmp_path, lock) as workers, pytest.raises(WorkError) as caught:
        for _, result, _ in workers.do([(Workshop.draw, (Deadly(), ()), {})] * 6):
            results.append(result)
    assert "3 worker processes in a row ended at their first task, the last with exit code 3" in caught.value.what
    assert [type(result) for result in results] == [Died] * 3


class Suspended:
    """An argument that suspends the process which receives it, as Ctrl-Z does."""

    def __reduce__(self):
        return signal.raise_signal, (signal.SIGSTOP,)


def test_a_suspended_worker_is_not_waited_for(grid, tmp_path):
    grid = grid.model_copy(update={"base": "/no/such"})
    with locked(tmp_path) as lock, Workers(2, grid, tmp_path, lock) as workers:
        next(workers.do([(Workshop.draw, (Suspended(), ()), {}), (Workshop.draw, (["an owl"], [0]), {})]))
        staff = list(workers._staff.values())
        rescue = threading.Timer(60, lambda: [process.kill() for process in staff])  # if it is, after all
        rescue.start()
    rescue.cancel()
    assert -signal.SIGKILL not in [process.exitcode for process in staff]


def test_a_worker_that_ctrl_c_ends_already_says_nothing_when_its_parent_ends_it_too(grid, tmp_path, capfd):
    """The terminal sends Ctrl-C to both; the parent, as it ends by it, sends SIGTERM."""
    begun = tmp_path / "begun"
    with locked(tmp_path) as lock, Workers(1, grid, tmp_path, lock) as workers:
        worker = workers._hire()
        worker.send((print, (Interrupting(begun),), {}))
        workers._busy[worker] = 0
        while not begun.exists():
            time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_ctrl_c_that_meets_a_worker_as_it_starts_ends_it_in_silence(grid, tmp_path, capfd):
    with locked(tmp_path) as lock, Workers(1, grid, tmp_path, lock) as workers:
        process = workers._staff[workers._hire()]
        os.kill(process.pid, signal.SIGINT)
    assert (process.exitcode, capfd.readouterr().err) == (130, "")
