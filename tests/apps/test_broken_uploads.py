"""A browser that goes amid of an upload leaves one line in the log, and in time nothing on the disk."""

import json
import os
import socket
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from helpers import app_server

pytest.importorskip("gradio")

from symdream_apps.broken_uploads import IDLE, sweep  # noqa: E402

LONG_AGO = 2 * IDLE


def part(name):
    head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\nContent-Type: image/png\r\n\r\n'
    return head.encode()


@contextmanager
def upload(url, length):
    """A connection on which the app expects a form of `length` bytes."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), app_server.START_SECONDS) as connection:
        connection.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\n\r\n".encode()
        )
        yield connection


def waited_for(found):
    deadline = time.monotonic() + app_server.START_SECONDS
    while not found() and time.monotonic() < deadline:
        time.sleep(0.1)
    return found()


def sent(folder):
    return sorted(folder.glob("tmp*"), key=lambda file: file.stat().st_size)


def age(file):
    os.utime(file, (time.time() - LONG_AGO,) * 2)


def test_an_upload_that_broke_off_is_one_line_and_is_gone_when_the_app_starts_again(own_server):
    uploads = own_server.runs / ".app" / "uploads"
    with upload(own_server.url, 9_000_000) as connection:
        connection.sendall(part("a.png") + bytes(100_000))
        assert waited_for(lambda: sent(uploads))
    assert waited_for(lambda: "broken off by the browser: /gradio_api/upload" in own_server.log.read_text())
    assert "Traceback" not in own_server.log.read_text()
    [left] = sent(uploads)
    age(left)
    assert app_server.stop(own_server) == 0
    again = app_server.start(own_server.runs)
    try:
        assert not left.exists()
    finally:
        app_server.stop(again)


def test_the_first_file_of_a_form_waits_for_the_last(own_server):
    """Also when another app on the same folder starts meanwhile: what that does is to sweep."""
    uploads = own_server.runs / ".app" / "uploads"
    first, second = b"A" * 200_000, b"B" * 300_000
    body = part("a.png") + first + b"\r\n" + part("b.png") + second
    end = b"\r\n--x--\r\n"
    with upload(own_server.url, len(body) + len(end)) as connection:
        connection.sendall(body[:-100_000])
        assert waited_for(lambda: len(sent(uploads)) == 2 and sent(uploads)[1].stat().st_size == len(first))
        age(sent(uploads)[1])
        sweep(uploads)
        connection.sendall(body[-100_000:] + end)
        with connection.makefile("rb") as answer:
            said = answer.read()
    assert said.startswith(b"HTTP/1.1 200")
    files = [Path(file) for file in json.loads(said.partition(b"\r\n\r\n")[2])]
    assert [file.read_bytes() for file in files] == [first, second]
    for file in files:
        age(file)
    sweep(uploads)
    assert all(file.exists() for file in files) and not sent(uploads)


def test_only_what_is_left_of_uploads_goes(tmp_path):
    for name in ("tmpone", "tmptwo", "votes.csv"):
        (tmp_path / name).touch()
    (tmp_path / "tmpfolder").mkdir()
    for name in ("tmpone", "votes.csv", "tmpfolder"):
        age(tmp_path / name)
    sweep(tmp_path)
    assert (tmp_path / "tmpone").exists() and (tmp_path / "tmptwo").exists()
    age(tmp_path / "tmptwo")
    sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"votes.csv", "tmpfolder"}
