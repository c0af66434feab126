"""What stands around the training of a run: its request, its lock, its log, and a state.json that tells how it ended.

The training itself is symdream.train, which is imported once the run is ours: it takes seconds.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from symdream.config import TrainConfig
from symdream.errors import RequestError, Stopped, WorkError
from symdream.files import write_text
from symdream.settings import to_toml
from symdream.signals import signals_like_ctrl_c
from symdream.training import processes, request
from symdream.training.absolute_paths import with_absolute_paths
from symdream.training.kept_state import KeptState
from symdream.training.ranks import is_leader
from symdream.training.run_folder import RunFolder
from symdream.training.torch_state import as_torch_starts
from symdream.ui import log_to, say

if TYPE_CHECKING:
    from symdream.diffusion.base import Base


def train_from(args: Any) -> RunFolder:
    """Check what was asked for, open the run folder, train, and leave a state.json that tells how it ended."""
    processes.start_all()
    if args.resume:
        run, config = request.reopen(args)
        state = run.read_state()
        if state.get("status") == "finished":
            say(f"{run.path} is finished: {state['step']} steps. Nothing to do.")
            return run
    else:
        config = request.read_request(args)
        run = request.open_output(config)
    try:
        run_training(run, config, resume=bool(args.resume), age=processes.age())
    except KeyboardInterrupt:
        if run.read_state().get("status") != "finished":
            raise
    return run


def run_training(
    run: RunFolder, config: TrainConfig, *, resume: bool = False, base: Base | None = None, age: float = 0.0
) -> Base:
    """`symdream.train.train` with the run folder's lock, log and state around it.

    age: for how many seconds it has been at work: a command counts its imports too.
    Raises: as that; KeyboardInterrupt also where the stop was asked for too late for this run, which is finished: who
    would go on with other things is not to.
    """
    if not is_leader():
        return _train(run, config, resume, base)
    run.acquire()  # before the imports, which take seconds: a second process is refused at once
    run.begin(age)
    run.stop_file.unlink(missing_ok=True)  # an old one; whoever sees the lock may ask to stop from here on

    steps = config.training.steps
    before = KeptState(run.state) if resume else None
    try:
        if not resume:
            # Before anything that takes time, so that a run killed while it loads can be resumed.
            write_text(run.config, to_toml(with_absolute_paths(config)))
        log_to(run.log)
        run.write_state("running", step=run.read_state().get("step", 0), steps=steps)
        with signals_like_ctrl_c():
            base = _train(run, config, resume, base)
        run.write_state("finished", step=run.read_state()["step"], steps=steps)
    except BaseException as error:
        leave(run, config, error, before=before)
        raise
    finally:
        log_to(None)
        run.release()
    if run.asked_too_late:
        raise KeyboardInterrupt
    return base


def _train(run: RunFolder, config: TrainConfig, resume: bool, base: Base | None) -> Base:
    """`symdream.train.train`, imported only here, in torch's own state."""
    with as_torch_starts(), processes.loss_explained(run, resume=resume):
        from symdream.train import train

        return train(run, config, resume=resume, base=base)


def leave(run: RunFolder, config: TrainConfig, error: BaseException, *, before: KeptState | None = None) -> None:
    """Remove the folder of a run that `error` ended before it began; in another, write to state.json how it ended.

    before: how the run stood that was to go on (None: a new one). Where the request to go on is refused, it stands so
    again, unless it is the app that started this process: whoever asked there reads the reason in state.json.
    """
    if not run.path.is_dir():
        return  # somebody removed it
    refused = isinstance(error, RequestError)
    if before is None and not run.trained and (not run.began or refused):
        with contextlib.suppress(OSError):
            run.remove()  # the next try finds the place free
        return
    if before is not None and refused and not before.is_running_in(os.getpid()):
        with contextlib.suppress(WorkError, OSError):
            before.put_back()
        return
    stopped = isinstance(error, Stopped | KeyboardInterrupt)
    status, told = ("stopped", None) if stopped else ("failed", str(error) or type(error).__name__)
    # On a full disk, or one that turned read-only, these fail too; what comes first is what to tell.
    with contextlib.suppress(WorkError, OSError):
        run.lines.flush()
    with contextlib.suppress(WorkError, OSError):
        run.write_state(status, step=run.read_state().get("step", 0), steps=config.training.steps, error=told)
    if not stopped:
        say(f"The run failed; its folder {run.path} keeps what was saved.")
