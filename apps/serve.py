"""Starts the app's server and keeps it until it is told to end."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from logging.handlers import RotatingFileHandler
from pathlib import Path

from symdream.errors import RequestError
from symdream.ui import say
from symdream_apps.context import HOME, Context

PORTS_TRIED = 100


def serve(runs: Path, *, host: str, port: int, share: bool, auth: tuple[str, str] | None) -> None:
    """Serve the app until Ctrl-C, or what the command turns into it (symdream.signals).

    Raises: RequestError if the runs folder cannot be made or no port is free.
    """
    context = Context.at(runs)
    # Read by gradio when it is imported: everything it writes stays in the folder for uploads.
    os.environ["GRADIO_TEMP_DIR"] = str(context.uploads)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    write_log(context)
    port = free_port(host, port)

    from starlette.middleware import Middleware

    from symdream_apps.broken_uploads import IDLE, OneLine, sweep
    from symdream_apps.gradio_app import build
    from symdream_apps.lost_app import HEAD as LOST_APP
    from symdream_apps.signed_out import HEAD as SIGNED_OUT
    from symdream_apps.studio import Studio
    from symdream_apps.theme import CSS, THEME
    from symdream_apps.upload import MAX_FILE_BYTES
    from symdream_apps.work import Desk

    sweep(context.uploads)
    desk = Desk(Studio(context))
    blocks = build(context, desk, login=auth is not None)
    ended = threading.Event()
    try:
        blocks.launch(
            server_name=host,
            server_port=port,
            share=share,
            auth=auth,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,  # what is not meant for the page goes to the log only
            allowed_paths=[],
            max_file_size=MAX_FILE_BYTES,
            theme=THEME,
            css=CSS,
            head=LOST_APP + SIGNED_OUT if auth else LOST_APP,
            footer_links=["api", "settings"],
            run_history=False,
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            app_kwargs={"middleware": [Middleware(OneLine, log=context.log)]},
        )
        say(f"symdream app: {blocks.share_url or blocks.local_url}   (Ctrl-C ends it)")
        while not ended.wait(IDLE):
            sweep(context.uploads)
    except KeyboardInterrupt:
        say("The app ends.")
    finally:
        blocks.close(verbose=False)
        desk.close()


def write_log(context: Context) -> None:
    """The app's log goes to stderr and to app.log in its own folder, traces included."""
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    file = RotatingFileHandler(
        context.runs / HOME / "app.log", maxBytes=10**6, backupCount=2, encoding="utf-8", delay=True
    )
    for handler in (logging.StreamHandler(), file):
        handler.setFormatter(form)
        context.log.addHandler(handler)
    context.log.setLevel(logging.INFO)
    context.log.propagate = False


def free_port(host: str, first: int) -> int:
    """The first port from `first` on that nobody listens on. Raises: RequestError if there is none, or no such host."""
    for port in range(first, min(first + PORTS_TRIED, 65536)):
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except socket.gaierror:
            raise RequestError(f"There is no host {host}.", fix="leave --host out to listen on this machine") from None
        except PermissionError:
            raise RequestError(f"Port {port} is not for you to use.", fix="take --port 7860") from None
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise RequestError(f"{host} is no address of this machine.", fix="leave --host out") from None
            continue
        if port != first:
            say(f"Port {first} is taken; the app is on {port}.")
        return port
    raise RequestError(f"No port from {first} to {port} is free.", fix="choose another --port")
