"""A signal outside of the loop, whatever the code makes of it that it meets."""

import os
import signal
import subprocess
import sys
import time
import types

import pytest

from symdream import cli
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


# The command `symdream doctor`, that is interrupted; and a second time as `WHEN` says.
TWICE = """
import atexit, os, signal, sys, threading, time, types
from symdream import cli, ui

def again():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.1)

def again_as_it_is_told():
    tell = ui.say
    ui.say = lambda text: (again(), tell(text))

def again_while_a_thread_is_waited_for():
    def waited_for():
        while threading.main_thread().is_alive():
            time.sleep(0.05)
        again()
        time.sleep(60)
    threading.Thread(target=waited_for).start()

def again_in_what_libraries_do_at_the_end():
    atexit.register(again)

def again_as_modules_are_taken_apart():
    class Last:
        def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
            kill(process, number)
    cli.last = Last()

def run(args):
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)

module = types.ModuleType("symdream.commands.doctor")
module.parse, module.run = lambda argv: None, run
sys.modules[module.__name__] = module
sys.argv = ["symdream", "doctor"]
WHEN()
sys.exit(cli.main())
"""


@pytest.mark.parametrize(
    "when",
    [
        "again_as_it_is_told",
        "again_while_a_thread_is_waited_for",
        "again_in_what_libraries_do_at_the_end",
        "again_as_modules_are_taken_apart",
    ],
)
def test_a_second_ctrl_c_while_the_process_ends_changes_nothing(when):
    begun = time.monotonic()
    code = TWICE.replace("WHEN", when)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr.strip()) == (130, "Stopped.")
    assert time.monotonic() - begun < 50, "nobody waits for a thread that was told to stop"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Stopped("saved")])
def test_a_command_that_a_program_calls_leaves_ctrl_c_to_the_program(monkeypatch, error):
    def run(args):
        raise error

    module = types.ModuleType("symdream.commands.doctor")
    module.parse, module.run = lambda argv: None, run
    monkeypatch.setitem(sys.modules, module.__name__, module)
    assert cli.main(["doctor"]) == 130  # the handlers: see above
