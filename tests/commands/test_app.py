"""What `symdream app` refuses before anything starts; the app itself is tested in tests/apps."""

from pathlib import Path

import pytest

from symdream.commands.app import AUTH_VARIABLE, Args, check
from symdream.errors import Problems


@pytest.fixture(autouse=True)
def no_auth_around(monkeypatch):
    monkeypatch.delenv(AUTH_VARIABLE, raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_password(host):
    assert check(Args(host=host)) is None


@pytest.mark.parametrize("flags", [{"host": "0.0.0.0"}, {"host": "192.168.0.5"}, {"share": True}])
def test_others_are_let_in_with_a_password_only(flags, monkeypatch):
    with pytest.raises(Problems, match="--auth"):
        check(Args(**flags))
    assert check(Args(**flags, auth="me:se:cret")) == ("me", "se:cret")
    monkeypatch.setenv(AUTH_VARIABLE, "you:word")
    assert check(Args(**flags)) == ("you", "word")


@pytest.mark.parametrize("auth", ["", "me", "me:", ":secret"])
def test_half_a_password_is_none(auth):
    with pytest.raises(Problems, match="USER:PASSWORD"):
        check(Args(auth=auth))


def test_all_that_is_wrong_is_told_at_once(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(Problems, match="3 problems"):
        check(Args(host="0.0.0.0", port=70000, runs=Path(tmp_path / "file")))


def test_a_password_that_is_typed_wins_over_that_of_the_environment(monkeypatch):
    monkeypatch.setenv(AUTH_VARIABLE, "you:word")
    assert check(Args(auth="me:secret")) == ("me", "secret")


@pytest.mark.parametrize("port", [0, 1, 65535, 65536])
def test_a_port_is_one_that_can_be_listened_on(port):
    if 0 < port < 65536:
        check(Args(port=port))
    else:
        with pytest.raises(Problems, match=f"--port {port}"):
            check(Args(port=port))
