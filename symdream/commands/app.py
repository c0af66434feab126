"""Open the app in a browser: load adapters, make and compare pictures, train.

It binds to this machine alone. Other hosts and --share show it to others, so they ask for --auth.
Pictures, uploads and the trash lie in the hidden folder .app of the runs folder.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from symdream.errors import Problem, Problems, RequestError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
AUTH_VARIABLE = "SYMDREAM_APP_AUTH"


@dataclass
class Args:
    host: str = "127.0.0.1"
    """Address to listen on; any but this machine's own needs --auth."""
    port: int = 7860
    """Port to listen on; the next free one is taken if somebody has it."""
    runs: Path = Path("runs")
    """Folder of the run folders; made if it is not there."""
    share: bool = False
    """Also open a public address through gradio's servers; needs --auth."""
    auth: str | None = None
    """USER:PASSWORD that browsers must give. Others on this machine can see it in the list of processes; the
    environment variable SYMDREAM_APP_AUTH keeps it from them."""


def check(args: Args) -> tuple[str, str] | None:
    """The user and password to ask for. Raises: Problems, all at once."""
    problems = []
    if not 1 <= args.port <= 65535:
        problems.append(Problem(f"--port {args.port}", "must be from 1 to 65535"))
    if args.runs.exists() and not args.runs.is_dir():
        problems.append(Problem(f"--runs {args.runs}", "is a file"))
    given = args.auth if args.auth is not None else os.environ.get(AUTH_VARIABLE)
    user, _, password = (given or "").partition(":")
    if given is not None and not (user and password):
        problems.append(Problem("--auth", "must be USER:PASSWORD, neither of them empty"))
    if given is None:
        for flag, wanted in ((f"--host {args.host}", args.host not in LOOPBACK), ("--share", args.share)):
            if wanted:
                problems.append(Problem(flag, "lets others in, who could use this machine: add --auth USER:PASSWORD"))
    if problems:
        raise Problems("the request", problems)
    return (user, password) if given is not None else None


def run(args: Args) -> int:
    auth = check(args)
    if importlib.util.find_spec("gradio") is None:
        raise RequestError("The app needs gradio, which is not installed.", fix='pip install "symdream[app]"')
    from symdream_apps.serve import serve

    serve(args.runs, host=args.host, port=args.port, share=args.share, auth=auth)
    return 0
