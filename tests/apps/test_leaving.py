"""Long work ends when nobody waits for it any more: its client is gone, or the app is told to end."""

import subprocess
import sys
import threading
import time

import pytest
from helpers import app_server

from symdream.errors import Stopped

pytest.importorskip("gradio")

from gradio_client import Client  # noqa: E402

from symdream_apps.context import Context  # noqa: E402
from symdream_apps.studio import Studio  # noqa: E402
from symdream_apps.work import Desk  # noqa: E402

# Half an hour of work on two cores.
ASKS = """
import sys, time
from gradio_client import Client
job = Client(sys.argv[1], verbose=False).submit(prompt="x", steps=900, count=16, api_name="/generate")
while not job.done():
    print(job.status().code.value, flush=True)
    time.sleep(0.2)
print(job.exception(), flush=True)
"""


def at_work(server):
    """A client in a process of its own, for whom the app works by now."""
    client = subprocess.Popen([sys.executable, "-c", ASKS, server.url], stdout=subprocess.PIPE, text=True)
    for line in client.stdout:
        if "PROCESSING" in line:
            break
    time.sleep(3)  # until it denoises
    assert client.poll() is None
    return client


@pytest.mark.slow
def test_a_client_that_is_gone_keeps_nobody_waiting_and_ctrl_c_ends_an_app_at_work(own_server):
    gone = at_work(own_server)
    gone.kill()
    gone.wait()
    made = Client(own_server.url, verbose=False).submit(prompt="y", steps=1, guidance=1, api_name="/generate")
    assert made.result(timeout=60)["images"]

    stays = at_work(own_server)
    began = time.monotonic()
    assert app_server.stop(own_server) == 0
    assert time.monotonic() - began < 30
    stays.wait(60)
    stays.stdout.close()
    assert "Traceback" not in own_server.log.read_text()


def test_a_desk_that_closes_ends_all_work_and_begins_no_more(tmp_path):
    desk, ends = Desk(Studio(Context.at(tmp_path / "runs"))), []

    def work(line):
        line.say("begun")
        if line.stop.wait(60):
            raise Stopped("as asked")

    def follow(following):
        try:
            for _ in following:
                pass
        except Exception as error:  # noqa: BLE001 - of whatever kind: it is looked at below
            ends.append(type(error))

    first, second = desk.run("me", work), desk.run("you", work)
    next(first)
    threads = [threading.Thread(target=follow, args=[following]) for following in (first, second)]
    for thread in threads:
        thread.start()
    while len(desk._lines) < 2:
        time.sleep(0.01)
    desk.close()
    for thread in threads:
        thread.join(60)
    assert Stopped in ends and len(ends) == 2
    with pytest.raises(RuntimeError):
        next(desk.run("late", work))
