"""A signal outside of the loop, whatever the code makes of it that it meets."""

import os
import signal
import time

import pytest

from symdream.errors import Stopped, WorkError
from symdream.signals import signals_like_ctrl_c

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers_are_as_before():
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    assert [signal.getsignal(number) for number in SIGNALS] == before


def receive(number):
    os.kill(os.getpid(), number)
    time.sleep(5)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_an_interruption(number):
    with pytest.raises(KeyboardInterrupt), signals_like_ctrl_c():
        receive(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_stays_one_where_a_library_makes_an_error_of_it(number):
    with pytest.raises(KeyboardInterrupt) as caught, signals_like_ctrl_c():
        try:
            receive(number)
        except BaseException:
            raise OSError("Unable to load weights") from None
    assert "Unable to load" in str(caught.value.__cause__)


@pytest.mark.parametrize("error", [WorkError("full"), Stopped("saved")])
def test_other_ends_stay_what_they_are(error):
    with pytest.raises(type(error)) as caught, signals_like_ctrl_c():
        raise error
    assert caught.value is error


def test_what_was_saved_before_it_ended_is_told_as_such():
    with pytest.raises(Stopped), signals_like_ctrl_c():
        try:
            receive(signal.SIGTERM)
        except KeyboardInterrupt:
            raise Stopped("saved") from None


def test_an_error_long_after_a_signal_is_not_taken_for_its_work(monkeypatch):
    with pytest.raises(ValueError, match="a mistake"), signals_like_ctrl_c():
        with pytest.raises(KeyboardInterrupt):
            receive(signal.SIGTERM)
        monkeypatch.setattr("symdream.signals.SOON", 0)
        raise ValueError("a mistake")
