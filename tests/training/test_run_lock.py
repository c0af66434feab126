import multiprocessing
import threading
import time

from symdream.training.run_lock import RunLock


def _hold(path, ready, done):
    RunLock(path).take()
    ready.set()
    done.wait(20)


def test_a_look_at_the_lock_tells_who_trains_and_hinders_nobody(tmp_path):
    lock = RunLock(tmp_path / "lock")
    assert not lock.is_taken()  # no lock file yet
    context = multiprocessing.get_context("spawn")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(lock.path, ready, done))
    process.start()
    assert ready.wait(60) and lock.is_taken()
    done.set()
    process.join()
    assert not lock.is_taken()

    # Somebody who looks all the time holds the lock, shared, for an instant each: a trainer gets it all the same.
    stop = threading.Event()

    def look():
        while not stop.is_set():
            lock.is_taken()
            time.sleep(0.005)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            assert lock.take()
            lock.release()
    finally:
        stop.set()
        watcher.join()
