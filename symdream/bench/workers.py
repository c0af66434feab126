"""Who does the tasks: this process, or several of one thread each.

A task is (function of a module, arguments); the function gets a Workshop before them. Workers are fresh processes with
their own base and encoders; one that dies (out of memory, killed) costs the task it was at, and another takes its
place.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from typing import Any

from symdream.bench.grid import Grid
from symdream.errors import Stopped, SymdreamError, WorkError
from symdream.signals import signals_like_ctrl_c

Task = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
Done = tuple[int, Any, float]  # number of the task, its result, seconds


class Died(Exception):
    """The worker process of a task ended; its exit code."""


def in_this_process(workshop: Any, tasks: Sequence[Task]) -> Iterator[Done]:
    """One after another."""
    for number, (function, args, options) in enumerate(tasks):
        began = time.monotonic()
        result = function(workshop, *args, **options)
        yield number, result, time.monotonic() - began


@contextmanager
def crew(count: int, workshop: Any, lock: int) -> Iterator[Callable[[Sequence[Task]], Iterator[Done]]]:
    """`do`: this process's own for a single one, with the workshop that it has; else that of `count` workers."""
    if count > 1:
        with Workers(count, workshop.grid, workshop.folder, lock) as workers:
            yield workers.do
    else:
        yield lambda tasks: in_this_process(workshop, tasks)


class Workers:
    """`with Workers(2, grid, folder, lock) as workers: for number, result, s in workers.do(tasks): …`, as they end.

    A result is an exception where the task raised one that is not the worker's own end; Died where the process died.
    lock: descriptor of the folder's lock, which the workers hold too: one whose parent was killed ends by itself, but
    not at once, and until then nobody else may write there.
    """

    def __init__(self, count: int, grid: Grid, folder: Path, lock: int):
        self.count, self.grid, self.folder, self.lock = count, grid, folder, lock
        self._context = multiprocessing.get_context("spawn")
        self._staff: dict[Connection, Any] = {}
        self._busy: dict[Connection, int] = {}  # with the number of its task
        self._proven: set[Connection] = set()  # those that have answered once

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for connection, process in self._staff.items():
            connection.close()  # which ends a waiting worker
            if connection in self._busy:
                process.terminate()
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)  # one that is suspended would not hear of it
        for process in self._staff.values():
            process.join()

    def do(self, tasks: Sequence[Task]) -> Iterator[Done]:
        """The results, as they end. Raises: WorkError if worker after worker dies before its first answer."""
        limit, in_vain = max(2, self.count), []  # exit codes of those that died so, since the last answer
        waiting = list(enumerate(tasks))[::-1]
        busy = self._busy
        idle = list(self._staff)
        while waiting or busy:
            while waiting and (idle or (len(self._staff) < self.count and len(in_vain) < limit)):
                rested = bool(idle)
                connection = idle.pop() if rested else self._hire()
                try:
                    connection.send(waiting[-1][1])
                except OSError:
                    if rested:  # it was killed since: another gets the task
                        self._dismiss(connection)
                        continue
                    # A new one that is gone already is told where its answer is awaited.
                number, _ = waiting.pop()
                busy[connection] = number
            if not busy:
                raise WorkError(
                    f"{len(in_vain)} worker processes in a row ended at their first task, the last with exit code "
                    f"{in_vain[-1]}; {len(waiting)} tasks are left.",
                    fix="give fewer --processes, each of which holds the whole base; with 1, what goes wrong is seen",
                )
            for connection in wait(list(busy)):
                number = busy.pop(connection)
                try:
                    result, seconds = connection.recv()
                    idle.append(connection)
                    self._proven.add(connection)
                    in_vain.clear()
                except (EOFError, OSError):  # ECONNRESET: it ended before it had taken its task from the pipe
                    code = self._dismiss(connection)
                    if connection not in self._proven:
                        in_vain.append(code)
                    result, seconds = Died(f"the process that worked on it ended with exit code {code}"), 0.0
                yield number, result, seconds

    def _dismiss(self, connection: Connection) -> int:
        """Forget a worker that has ended; its exit code."""
        process = self._staff.pop(connection)
        connection.close()
        process.join()
        return process.exitcode

    def _hire(self) -> Connection:
        resource_tracker.ensure_running()  # which `start` else does itself, and unblocks SIGINT
        ours, theirs = self._context.Pipe()
        before = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        os.environ.update(dict.fromkeys(before, "1"))
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # in the worker too, until it can answer
        try:
            process = self._context.Process(target=_work, args=(theirs, self.grid, self.folder), daemon=True)
            process.start()
            self._staff[ours] = process
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)  # last: a Ctrl-C that waited is raised here
        theirs.close()
        with suppress(OSError, RuntimeError, EOFError):  # it has died already: `do` is told so when it listens
            send_handle(ours, self.lock, process.pid)
        return ours


def _work(connection: Connection, grid: Grid, folder: Path) -> None:
    """A worker's life: tasks until the pipe closes, or a signal comes. Ctrl-C comes twice: from the terminal, and as
    the SIGTERM of its parent, which ends by it, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with signals_like_ctrl_c(last=True):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
            recv_handle(connection)  # the folder's lock: open, and so held, as long as this process lives
            threading.Thread(target=_end_with, args=(multiprocessing.parent_process().sentinel,), daemon=True).start()
            workshop = None
            while True:
                function, args, options = connection.recv()
                began = time.monotonic()
                try:
                    workshop = workshop or _open_workshop(grid, folder)
                    result = function(workshop, *args, **options)
                except SymdreamError as error:
                    result = error
                except Exception as error:  # noqa: BLE001 - told by the parent, as the task's failure
                    result = RuntimeError(f"{type(error).__name__}: {error}")
                connection.send((result, time.monotonic() - began))
    except (EOFError, ConnectionError):
        return
    except (KeyboardInterrupt, Stopped):  # outside: one more, while the first unwinds, ends here too
        sys.exit(130)


def _open_workshop(grid: Grid, folder: Path) -> Any:
    from symdream.bench.workshop import Workshop

    return Workshop(grid, folder)


def _end_with(parent: int) -> None:
    """End as SIGTERM ends, saving what a run has, when the process that sent this one out is gone: what it does now
    is nobody's, and the next start does it again."""
    wait([parent])
    os.kill(os.getpid(), signal.SIGTERM)
