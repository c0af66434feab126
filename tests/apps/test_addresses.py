"""Where the app may listen."""

import socket

import pytest

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
