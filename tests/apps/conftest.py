"""One server for the tests of a module, with two adapters in its runs folder, a page of it in a browser, and servers of
a test's own."""

import pytest
from helpers import app_server
from helpers import browser as browsers

from symdream.data.samples import sample_data


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


@pytest.fixture
def own_server(tmp_path):
    """One that a test may end, with nothing in its runs folder."""
    pytest.importorskip("gradio")
    started = app_server.start(tmp_path / "runs")
    yield started
    app_server.stop(started)


@pytest.fixture(scope="module")
def browser():
    with browsers.opened() as opened:
        yield opened


@pytest.fixture
def page(browser, server):
    page = browsers.open_page(browser, server.url)
    yield page
    page.context.close()
