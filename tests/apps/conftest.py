"""One server for the tests of a module, with two adapters in its runs folder."""

import pytest
from helpers import app_server

from symdream.commands.demo import sample_data


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    pytest.importorskip("gradio")
    runs = tmp_path_factory.mktemp("app é") / "runs"
    owl = sample_data().resolve() / "owl"
    app_server.write_run(runs / "owl", photos=owl, seed=1)
    app_server.write_run(runs / "owl two", photos=owl, seed=2)
    started = app_server.start(runs)
    yield started
    app_server.stop(started)
