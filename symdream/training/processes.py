"""Several processes on one machine's CPU, which accelerate's launcher leaves to mpirun.

`accelerate launch --num_processes 2 --cpu symdream/train.py …` starts one process only, silently, unless it is given
an MPI hostfile. The one that it started recognises this and becomes torchrun, which starts all that were asked for.
"""

from __future__ import annotations

import os
import sys

from symdream.errors import RequestError
from symdream.training.run_folder import RANKS


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
