import os

import pytest

from symdream.threads import choose_waiting


@pytest.mark.parametrize(
    ("load", "before", "after"),
    [
        (0.0, {}, None),
        (os.cpu_count(), {}, "1000"),
        (os.cpu_count(), {"GOMP_SPINCOUNT": "7"}, "7"),
        (os.cpu_count(), {"OMP_WAIT_POLICY": "ACTIVE"}, None),
    ],
)
def test_threads_spin_briefly_on_a_busy_machine_unless_the_user_says_otherwise(monkeypatch, load, before, after):
    monkeypatch.setattr(os, "environ", dict(before))
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    choose_waiting()
    assert os.environ.get("GOMP_SPINCOUNT") == after
