"""A browser that goes amid of an upload leaves one line in the log, and in time nothing on the disk."""

import os
import socket
import time
from urllib.parse import urlsplit

import pytest
from helpers import app_server

pytest.importorskip("gradio")

from symdream_apps.broken_uploads import IDLE, sweep  # noqa: E402


@pytest.fixture
def server(tmp_path):
    started = app_server.start(tmp_path / "runs")
    yield started
    app_server.stop(started)


def break_off(url):
    """Begin to send a file, and go."""
    place = urlsplit(url)
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\nContent-Type: image/png\r\n\r\n'
    with socket.create_connection((place.hostname, place.port)) as connection:
        connection.sendall(
            b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n" + head + bytes(100_000)
        )
        time.sleep(1)


def waited_for(found):
    deadline = time.monotonic() + app_server.START_SECONDS
    while not found() and time.monotonic() < deadline:
        time.sleep(0.1)
    return found()


def test_an_upload_that_broke_off_is_one_line_and_is_gone_with_the_app(server):
    break_off(server.url)
    assert waited_for(lambda: "broken off by the browser: /gradio_api/upload" in server.log.read_text())
    [left] = (server.runs / ".app" / "uploads").glob("tmp*")
    os.utime(left, (time.time() - 2 * IDLE,) * 2)
    assert app_server.stop(server) == 0
    assert not left.exists() and "Traceback" not in server.log.read_text()


def test_what_is_still_being_sent_and_what_is_no_upload_stay(tmp_path):
    old = (time.time() - 2 * IDLE,) * 2
    for name in ("tmpold", "tmpnew", "votes.csv"):
        (tmp_path / name).touch()
    (tmp_path / "tmpfolder").mkdir()
    for name in ("tmpold", "votes.csv", "tmpfolder"):
        os.utime(tmp_path / name, old)
    sweep(tmp_path, IDLE)
    assert {path.name for path in tmp_path.iterdir()} == {"tmpnew", "votes.csv", "tmpfolder"}
