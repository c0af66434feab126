"""The `symdream` command: finds the command's module, lets tyro parse its arguments, turns errors into exit codes."""

from __future__ import annotations

import errno
import importlib
import os
import select
import signal
import sys
from collections.abc import Callable

import symdream.quiet  # noqa: F401  (here, so that worker processes, which import this module, are quiet, too)

# One line each, so that --help needs to import none of them; tests hold them equal to the modules' own.
COMMANDS = {
    "demo": "Teach the embedded base a sample subject and show it in new scenes.",
    "train": "Teach a base one subject from a folder of photos.",
    "generate": "Make images with a trained adapter.",
    "evaluate": "Score a run, an adapter file or a folder of images with DINO, CLIP-I and CLIP-T.",
    "compare": "Compare methods on many subjects and seeds, with intervals, statistics and a report.",
    "export": "Write an adapter for other tools: as a LoRA file, or merged into its base.",
    "inspect": "Tell what is in an adapter file: method, rank, trigger, base, norms, warnings.",
    "app": "Open the app in a browser: load adapters, make and compare pictures, train.",
    "base": "List, fetch, check or export base models.",
    "doctor": "Show what this machine can do, and about how long a run would take.",
}


REFUSALS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR,
    errno.ENAMETOOLONG, errno.ENOMEM, errno.EBUSY,
}  # fmt: skip


def usage() -> str:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {line}" for name, line in COMMANDS.items())
    return (
        "symdream: teach Stable Diffusion one subject with a symmetric low-rank adapter\n\n"
        f"usage: symdream COMMAND [options]     symdream COMMAND --help tells its options\n\n{listing}\n\n"
        "  --version  print the version"
    )


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 failed, 2 wrong request, 130 stopped.

    argv: the words after `symdream` (None: the process's own; it then ends with this command).
    """
    last = argv is None
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"], ["help"]):
        return ended(lambda: print(usage()))
    if argv[:1] == ["--version"]:
        from symdream import __version__

        return ended(lambda: print(__version__))
    if not argv or argv[0] not in COMMANDS:
        from symdream.errors import did_you_mean

        problem = f"No command {argv[0]}{did_you_mean(argv[0], COMMANDS) or '.'}" if argv else "No command given."
        print(f"{problem}\n\n{usage()}", file=sys.stderr)
        return 2
    return run_command(argv[0], argv[1:], last=last)


def run_command(name: str, argv: list[str], *, last: bool = False) -> int:
    """Parse `argv` for the command `name`, run it, and tell errors the way users can act on.

    last: the process ends with the command. If it is stopped, Ctrl-C keeps out of that end from then on.
    """
    if os.name == "nt":
        # Run folders are locked with flock and replaced while others read them: Windows has neither.
        print("symdream runs on Linux and macOS. On Windows, use it in WSL: wsl --install", file=sys.stderr)
        return 1
    from symdream.errors import Stopped
    from symdream.signals import end_stopped, signals_like_ctrl_c
    from symdream.threads import choose_waiting

    choose_waiting()
    # A stream that lacks a letter (Λ in cp1252: a file on Windows) gets its number instead of ending the command.
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")

    def work() -> int:
        with signals_like_ctrl_c(last=last):
            module = importlib.import_module(f"symdream.commands.{name}")
            args = module.parse(argv) if hasattr(module, "parse") else parse(module, name, argv)
            return module.run(args) or 0

    code = ended(work)
    if last and code == Stopped.exit_code:
        end_stopped(code)
    return code


def ended(work: Callable[[], int | None]) -> int:
    """The exit code of `work`, whose errors are told; nothing that it printed is on its way still."""
    from symdream.errors import Stopped, SymdreamError, is_out_of_memory
    from symdream.ui import say

    try:
        try:
            return work() or 0
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # not as Python ends, where an error gets no sentence, and 120 for an exit code
    except SymdreamError as error:
        say(f"\n{error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("\nStopped.")
        return Stopped.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_is_gone():
            drop_output()
            return 128 + signal.SIGPIPE  # `symdream … | head`: nothing is wrong with us
        # What the machine refuses, and nobody foresaw; any other is a mistake of ours, whose trace is wanted.
        if error.errno not in REFUSALS:
            raise
        place = f"\n  where: {error.filename}" if error.filename else ""
        say(f"\nCould not go on: {error.strerror}.{place}")
        drop_output()
        return 1
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).strip().splitlines()
        place = f"\n  where: {said[0][:200]}" if said else ""
        say(f"\nOut of memory.{place}\n  fix:   end other programs that use much of it, or ask for less at once")
        return 1


def reader_is_gone() -> bool:
    """Whether nobody reads our output any more. Another pipe that broke is a mistake of ours."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def drop_output() -> None:
    """Lead what is printed but could not be written to nowhere: as Python ends, it would try again."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def parse(module, name: str, argv: list[str]):
    """The command's `Args`, parsed by tyro; its help begins with the module's docstring."""
    import tyro

    from symdream.arguments import merge_repeated, optional_arguments

    with optional_arguments():
        return tyro.cli(
            module.Args,
            args=merge_repeated(module.Args, argv),
            prog=f"symdream {name}",
            description=module.__doc__,
            config=(tyro.conf.HelptextFromCommentsOff, tyro.conf.FlagCreatePairsOff),
        )


if __name__ == "__main__":
    sys.exit(main())
