"""Real processes of the symdream command that start in a moment.

Importing torch and diffusers takes most of a short run's time. A server process imports them once and forks itself
for every command: each child is a process of its own, with its own pid, lock and files, runs `symdream.cli.main`, and
can be killed like any other. The server itself never computes, so that there are no threads a fork would lose.

    with ForkServer() as server:
        child = server.start("train", "--images", …, log=folder / "log")
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# What a training imports, and what that imports when a model is loaded.
MODULES = [
    "accelerate.utils",
    "diffusers.loaders.peft",
    "diffusers.loaders.unet",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.schedulers.scheduling_ddim",
    "torch._dynamo",
    "torch.utils.tensorboard",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "tyro",
    "symdream.diffusion.graph_engine",
    "symdream.train",
    "symdream.training.session",
]


@dataclass
class Child:
    """A symdream command under way; what it prints goes to `log`."""

    server: ForkServer
    pid: int
    log: Path

    def poll(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it runs."""
        return self.server.ask({"poll": self.pid})

    def wait(self, timeout: float = 300) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < deadline, f"still running after {timeout} s:\n{self.said}"
            time.sleep(0.02)
        return code

    def wait_until(self, found: Callable[[], object]) -> None:
        """Until `found()` is true, while it runs."""
        while not found():
            assert self.poll() is None, self.said
            time.sleep(0.01)

    @property
    def said(self) -> str:
        return self.log.read_text(encoding="utf-8")


class ForkServer:
    def __enter__(self) -> ForkServer:
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.wait()

    def ask(self, question: dict):
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, *argv: object, log: Path, cwd: Path | None = None) -> Child:
        """Run `symdream ARGV` in `cwd`."""
        log.write_bytes(b"")
        pid = self.ask({"argv": [str(a) for a in argv], "log": str(log), "cwd": str(cwd or Path.cwd())})
        return Child(self, pid, log)


def serve() -> None:
    for name in MODULES:
        importlib.import_module(name)
    codes: dict[int, int] = {}
    answer = sys.stdout
    print("ready", file=answer, flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        if "poll" in question:
            pid = question["poll"]
            if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                codes[pid] = os.waitstatus_to_exitcode(ended[1])
            reply = codes.get(pid)
        else:
            reply = os.fork()
            if reply == 0:
                run(**question)
        print(json.dumps(reply), file=answer, flush=True)


def run(argv: list[str], log: str, cwd: str) -> None:
    """The child: never returns to the server's loop."""
    code = 1
    try:
        os.chdir(cwd)
        opened = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream, target in ((os.open(os.devnull, os.O_RDONLY), 0), (opened, 1), (opened, 2)):
            os.dup2(stream, target)
        from symdream.cli import main

        code = main(argv)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    # This file's folder would come first on sys.path; its modules are imported as helpers.x everywhere.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    serve()
