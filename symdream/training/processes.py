"""Several processes that train one run: as many when it is resumed, and on one machine's CPU too.

accelerate's launcher leaves the CPU to mpirun: `accelerate launch --num_processes 2 --cpu symdream/train.py …` starts
one process only, silently, unless it is given an MPI hostfile. The one that it started recognises this and becomes
torchrun, which starts all that were asked for.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from symdream.errors import RequestError, WorkError, typed
from symdream.files import read_json
from symdream.training.ranks import LOCAL_RANKS, RANKS, WORLD_SIZES
from symdream.training.run_folder import RunFolder

SCRIPT = Path(__file__).parent.parent / "train.py"  # what a launcher starts

CUT_OFF = ("Connection closed by peer", "Connection reset", "Broken pipe")  # in what gloo says


def start_all() -> None:
    """Replace this process by all that were asked for, if a launcher started it alone; else return.

    Raises: RequestError if it does not tell how many were asked for.
    """
    # With more than one process in mind, the launcher sets the address where they meet; whoever starts them, the rank.
    if "ACCELERATE_USE_CPU" not in os.environ or "MASTER_ADDR" not in os.environ or any(r in os.environ for r in RANKS):
        return
    count = asked_for()
    if count is None:
        raise RequestError(
            "accelerate was asked for several processes on the CPU and started one.",
            fix="torchrun --nproc-per-node 2 symdream/train.py … --device cpu",
        )
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count), *sys.argv]
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *command])


def leave_launcher() -> None:
    """Forget that mpirun, srun or torchrun started this process beside others: all that it trains, it trains alone."""
    for name in (*RANKS, *WORLD_SIZES, *LOCAL_RANKS):
        os.environ.pop(name, None)


def age() -> float:
    """For how many seconds this process has been there: a command's imports are part of what it takes."""
    import psutil

    # Where the clock was set back meanwhile, the process seems to be of the future.
    return max(0.0, time.time() - psutil.Process().create_time())


def asked_for() -> int | None:
    """--num_processes on the command line of the launcher, this process's parent."""
    import psutil
    from accelerate.commands.launch import launch_command_parser

    command = psutil.Process().parent().cmdline()
    for place, word in enumerate(command):
        if os.path.basename(word) in ("launch", "launch.py", "accelerate-launch", "accelerate.commands.launch"):
            known, _ = launch_command_parser().parse_known_args(command[place + 1 :])
            return known.num_processes
    return None


@contextmanager
def loss_explained(run: RunFolder, *, resume: bool) -> Iterator[None]:
    """While entered, the error of a process that another one of the run no longer answers is told as such.

    resume: whether the run is one that began before. Raises: WorkError in its place.
    """
    try:
        yield
    except RuntimeError as error:
        from torch import distributed

        together = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        backend = isinstance(error, distributed.DistError) if together else False
        if not (together and (backend or any(words in str(error) for words in CUT_OFF))):
            raise
        way = "start it again, or continue with --resume what has begun"
        if resume or run.began:  # another than the leader may know a new run by another name, and nothing of it
            count, on_cpu = distributed.get_world_size(), "nccl" not in distributed.get_backend()
            way = f"continue with: {resume_command(run.path, count, on_cpu=on_cpu)}"
        raise WorkError(
            "Another process of this run ended (killed, out of memory, or by an error of its own).",
            where=str(error).strip().partition("\n")[0] if backend else None,  # of a backend there are other errors
            fix=way,
        ) from error


def check_number(run: RunFolder, now: int) -> None:
    """See that a run is resumed by as many processes as before: each adds a batch of its own to every step.

    Raises: RequestError if `now` is another number than that in env.json.
    """
    before = read_json(run.env).get("processes", now)
    if before != now:
        raise RequestError(
            f"{run.path} was trained by {before} process{'es' * (before > 1)} and would go on with {now}: its steps "
            f"would see {'more' if now > before else 'fewer'} images than before.",
            fix=f"continue with: {resume_command_of(run.path)}",
        )


def resume_command_of(run: Path) -> str:
    """What to type to resume the run at this path by as many processes as trained it, which its env.json tells."""
    env = read_json(RunFolder(run).env)
    return resume_command(run, env.get("processes", 1), on_cpu=str(env.get("device")).startswith("cpu"))


def resume_command(run: Path, count: int, *, on_cpu: bool) -> str:
    """What to type to resume the run at this path by so many processes."""
    if count == 1:
        return f"symdream train --resume {typed(run)}"
    script = SCRIPT.relative_to(Path.cwd()) if SCRIPT.is_relative_to(Path.cwd()) else SCRIPT
    cpu = "--cpu " if on_cpu else ""
    return f"accelerate launch {cpu}--num_processes {count} {typed(script)} --resume {typed(run)}"
