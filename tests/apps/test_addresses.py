"""Where the app may listen, and where it says it is."""

import socket
import urllib.request

import pytest
from helpers import app_server

from symdream.errors import RequestError
from symdream_apps.serve import free_port


def test_a_taken_port_gives_way_to_the_next_free_one(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        first = taken.getsockname()[1]
        port = free_port("127.0.0.1", first)
    assert first < port <= first + 100
    assert f"Port {first} is taken; the app is on {port}." in capsys.readouterr().err


@pytest.mark.parametrize("host, told", [("192.0.2.1", "no address of this machine"), ("no.such.invalid", "no host")])
def test_an_address_that_is_not_this_machines_is_told(host, told):
    with pytest.raises(RequestError, match=told):
        free_port(host, 7860)


@pytest.mark.slow
def test_behind_a_proxy_the_pages_addresses_lie_below_its_path(tmp_path):
    server = app_server.start(tmp_path / "runs", env={"GRADIO_ROOT_PATH": "/user/me/proxy/7860"})
    try:
        with urllib.request.urlopen(server.url) as page:
            text = page.read().decode()
    finally:
        app_server.stop(server)
    assert f'"root":"{server.url}/user/me/proxy/7860"' in text
