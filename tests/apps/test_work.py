"""What long work tells its page on the way, and whose work a stop ends."""

import threading
import time
from types import SimpleNamespace

import pytest

from symdream.errors import Stopped
from symdream_apps.context import Context
from symdream_apps.studio import Studio
from symdream_apps.work import PREVIEW_EVERY, PREVIEW_SHARE, Desk, Line


@pytest.fixture
def desk(tmp_path):
    desk = Desk(Studio(Context.at(tmp_path / "runs")))
    yield desk
    desk.studio.close()


def test_the_time_left_counts_from_the_end_of_the_first_step():
    line = Line(started=time.monotonic() - 1000)  # loading a base
    line.on_step(1, 7)
    assert line.events.get().text == "Step 1 of 7"
    line.started -= 20
    line.on_step(3, 7)  # two steps in 20 seconds, and four to come
    told = line.events.get()
    assert told.text == "Step 3 of 7 · 40 s left" and told.share == pytest.approx(3 / 7)


def test_unfinished_pictures_have_their_places_and_no_more_than_their_share_of_the_time():
    line = Line()
    preview = SimpleNamespace(first=4, pictures=lambda: time.sleep(0.2) or ["a", "b"])
    line.watch(preview)
    assert line.events.get().pictures == {4: "a", 5: "b"}
    # Half a second of looking is a fifth of two and a half: the next look has two to wait for.
    for cost, since, seen in ((0.0, PREVIEW_EVERY, True), (0.5, 1.9, False), (0.5, 2.1, True)):
        line._look_seconds, line._looked = cost, time.monotonic() - since
        line.watch(preview)
        assert line.events.empty() is not seen, (cost, since)
        while not line.events.empty():
            line.events.get()
    assert PREVIEW_SHARE == 0.2


def test_what_is_stopped_while_it_waits_does_not_begin_and_nobody_works_for_who_is_done(desk):
    begun, ended = [], []
    first = desk.run("me", lambda line: line.say("at work") or ended.append(line.stop.wait(20)))
    next(first)
    second = desk.run("you", lambda line: begun.append(line))
    answers = []
    follower = threading.Thread(target=lambda: answers.append(pytest.raises(Stopped, next, second)))
    follower.start()
    while len(desk._lines) < 2:
        time.sleep(0.01)
    assert desk.stop("you")
    first.close()  # its page is gone: nothing else ends the work
    follower.join(60)
    assert answers and not begun and ended == [True]
    assert not desk.stop("me") and not desk.stop("you")
