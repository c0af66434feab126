"""What the Compare page shows, as gradio takes it in, without a browser."""

import asyncio
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.app_server import write_run

from symdream.commands.demo import sample_data
from symdream.diffusion.png import read_settings
from symdream.errors import RequestError

gr = pytest.importorskip("gradio")

from gradio.context import LocalContext  # noqa: E402
from gradio.state_holder import SessionState  # noqa: E402

from symdream_apps import history  # noqa: E402
from symdream_apps.compare_page import ComparePage  # noqa: E402
from symdream_apps.context import Context  # noqa: E402
from symdream_apps.shared import Shared  # noqa: E402
from symdream_apps.studio import Studio  # noqa: E402
from symdream_apps.work import Desk  # noqa: E402


@pytest.fixture
def context(tmp_path, monkeypatch):
    context = Context.at(tmp_path / "runs")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(context.uploads))
    return context


@pytest.fixture
def page(context):
    studio = Studio(context)
    with gr.Blocks():
        states = gr.State(None), gr.State(None), gr.BrowserState()
        yield ComparePage(context, Shared(gr.Tabs(), *states, studio, Desk(studio), history.History(context)))
    studio.close()


def compared(page, paths, prompts, **settings):
    """What slider and blind test get of a comparison of two steps."""
    given = {"across": "adapters", "base_too": True, "weights": [], "seeds": "0", "photos": "none", **settings}
    request = SimpleNamespace(username=None, session_hash="session")
    [*_, (line, _, _, kept, _)] = page.answer_compare(
        history.new_owner(), given["across"], paths, {}, given["base_too"], given["weights"], prompts, given["seeds"],
        2, given["photos"], None, "sprite", 1.0, "", request,
    )  # fmt: skip
    assert "Done." in line
    return kept


def test_rows_and_columns_tell_the_prompt_that_each_picture_was_made_with(context, page):
    photos = sample_data().resolve()
    fox = str(write_run(context.runs / "fox", photos=photos / "fox", noun="dog"))
    owl = str(write_run(context.runs / "owl", photos=photos / "owl"))
    kept = compared(page, [fox, owl], "a red {subject}\na red toy")
    columns = [label.partition(": ") for label in kept["columns"]]
    assert [label for label, _ in page.slider.offer(kept)[0].choices] == kept["columns"]
    assert [label for label, _, _ in columns] == ["base alone", "fox", "owl"]
    for row, files in zip(kept["rows"], kept["files"], strict=True):
        for (_, _, words), file in zip(columns, files, strict=True):
            assert read_settings(Path(file))["prompt"] == row["prompt"].replace("{subject}", words)
    assert "{subject}" in kept["rows"][0]["prompt"]
    # Votes go by the adapters' plain names, and each tells what both of its pictures were made with.
    state = page.blind.begin(kept)[0]
    pairs = state["pairs"]
    for _ in pairs:
        state, text = page.blind.vote(kept, state, "A")[:2]
    for pair, vote in zip(pairs, state["votes"], strict=True):
        for place, name, prompt in (
            (pair.a, vote.shown_as_a, vote.prompt_a), (pair.b, vote.shown_as_b, vote.prompt_b)
        ):  # fmt: skip
            assert name == ("base alone", "fox", "owl")[place]
            assert prompt == read_settings(Path(kept["files"][pair.row][place]))["prompt"]
    assert "| fox |" in text and "sks" not in text


def test_a_prompt_that_all_variants_share_is_told_as_it_was(context, page):
    owl = str(write_run(context.runs / "owl", photos=sample_data().resolve() / "owl"))
    kept = compared(page, [owl], "a red {subject}")
    assert kept["variants"] == kept["columns"] == ["base alone", "owl"]
    assert kept["rows"][0]["prompt"] == "a red sks bird"


def test_a_prompt_of_a_blind_test_is_shown_as_it_was_written(context, page):
    run = write_run(context.runs / "owl", photos=sample_data().resolve() / "owl", trigger="<img src=x>")
    kept = compared(page, [str(run)], "a *red* {subject}")
    assert kept["rows"][0]["prompt"] == "a *red* <img src=x> bird"
    assert r"a \*red\* \<img src=x\> bird" in page.blind.begin(kept)[1]


@contextmanager
def within_an_event():
    """Where a component is an update of one that is there, and not a new one."""
    token = LocalContext.in_event_listener.set(True)
    try:
        yield
    finally:
        LocalContext.in_event_listener.reset(token)


def test_every_file_of_a_comparison_is_one_that_gradio_removes_in_time(context):
    owl = str(write_run(context.runs / "owl", photos=sample_data().resolve() / "owl"))
    studio = Studio(context)
    with gr.Blocks() as blocks:
        states = gr.State(None), gr.State(None), gr.BrowserState()
        page = ComparePage(context, Shared(gr.Tabs(), *states, studio, Desk(studio), history.History(context)))
        page.connect()
    session = SessionState(blocks)

    asked = page.answer_compare(
        history.new_owner(), "adapters", [owl], {}, True, [], "a {subject}", "0, 1", 2, "run", None, "sprite", 1.0,
        "a red {subject}",
        SimpleNamespace(username=None, session_hash="session"),
    )  # fmt: skip
    with within_an_event():
        told = list(asked)
        result = told[-1][3]
        assert "a red sks bird" in json.dumps(read_settings(Path(result["files"][0][0])))
        more = [("show", page.slider.show(result, 0, 1, 1)), ("begin", page.blind.begin(result))]
    for name, values in [("answer_compare", values) for values in told] + more:
        event = next(fn for fn in blocks.fns.values() if fn.name == name)
        asyncio.run(blocks.postprocess_data(event, values, session))
    written = {str(path) for path in context.uploads.rglob("*") if path.is_file()}
    assert len(written) > 5 and written <= set().union(*blocks.temp_file_sets)
    assert result["dino"][0][0] is not None and len(result["references"]) == 5
    with within_an_event():
        state = page.blind.begin(result)[0]
        for file in (file for row in result["files"] for file in row):
            Path(file).unlink()
        with pytest.raises(RequestError, match="not there any more"):
            page.slider.show(result, 0, 1, 0)
        # Who moves them to the trash amid a blind test keeps the votes.
        assert len(state["pairs"]) > 1
        ended = page.blind.vote(result, state, "a")
        assert len(ended[0]["votes"]) == 1 and "last pair" in ended[1]
    assert len(list(context.uploads.glob("votes-*/votes.csv"))) == 1
    studio.close()
