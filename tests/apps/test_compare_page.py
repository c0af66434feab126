"""What the Compare page shows, as gradio takes it in, without a browser."""

import asyncio
import csv
import json
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.app_server import write_adapter, write_run
from PIL import Image

from symdream.data.samples import sample_data
from symdream.diffusion.grid import make_grid
from symdream.diffusion.png import read_settings, save_png
from symdream.errors import RequestError

gr = pytest.importorskip("gradio")

from gradio.context import LocalContext  # noqa: E402
from gradio.state_holder import SessionState  # noqa: E402

from symdream_apps import comparison, generation, history  # noqa: E402
from symdream_apps.compare_page import ComparePage, for_views, partial  # noqa: E402
from symdream_apps.context import Context  # noqa: E402
from symdream_apps.shared import Shared  # noqa: E402
from symdream_apps.studio import Studio  # noqa: E402
from symdream_apps.text import no_markdown  # noqa: E402
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
        yield ComparePage(context, Shared.across(gr.Tabs(), context, Desk(studio)))
    studio.close()


def compared(page, paths, prompts, dropped=(), **settings):
    """What slider and blind test get of a comparison of two steps."""
    given = {"across": "adapters", "base_too": True, "weights": [], "seeds": "0", "photos": "none", **settings}
    request = SimpleNamespace(username=None, session_hash="session")
    [*_, (line, _, _, kept, _)] = page.answer_compare(
        history.new_owner(), given["across"], paths, given["base_too"], given["weights"], prompts, given["seeds"],
        2, given["photos"], None, "sprite", 1.0, "", list(dropped), request,
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
        for place, name, prompt in ((pair.a, vote.shown_as_a, vote.prompt_a), (pair.b, vote.shown_as_b, vote.prompt_b)):
            assert name == ("base alone", "fox", "owl")[place]
            assert prompt == read_settings(Path(kept["files"][pair.row][place]))["prompt"]
    assert "| fox |" in text and "sks" not in text


def test_the_table_has_the_means_of_each_variant_and_the_status_what_they_were_compared_with(context, page):
    for name in ("fox", "owl"):
        write_run(context.runs / name, photos=sample_data().resolve() / name)
    chosen = [str(context.runs / name) for name in ("fox", "owl")]
    request = SimpleNamespace(username=None, session_hash="session")
    [*_, (line, grid, table, kept, _)] = page.answer_compare(
        history.new_owner(), "adapters", chosen, True, [], "a {subject}\na toy", "4", 1, "run", None, "sprite", 2.5,
        "blue", [], request,
    )  # fmt: skip
    dino, captions = np.array(kept["dino"]), np.array(kept["captions"])
    assert [row[0] for row in table.value["data"]] == ["base alone", "fox", "owl"]
    assert [row[1] for row in table.value["data"]] == pytest.approx(dino.mean(0), abs=6e-4)
    clip_t = np.array([[float(caption.split()[-1]) for caption in row] for row in captions])
    assert [row[2] for row in table.value["data"]] == pytest.approx(clip_t.mean(0), abs=6e-3)
    assert all(f"DINO {dino[place]:.2f} " in captions[place] for place in np.ndindex(2, 3))
    assert (
        "DINO compares each with its own" in line and "Across: base alone, fox, owl. Down: a {subject}" in grid.alt_text
    )
    settings = read_settings(Path(kept["files"][1][2]))
    assert [settings[key] for key in ("prompt", "guidance", "negative_prompt", "seed")] == ["a toy", 2.5, "blue", 4]

    kept = compared(page, chosen, "a toy", across="weights", weights=[1, 0])
    assert kept["variants"] == ["fox × 0", "fox × 1"]


def test_while_pictures_are_missing_those_that_are_there_are_in_their_places():
    variants, rows = [comparison.Variant(name) for name in "abc"], [comparison.Row("x", 0), comparison.Row("y", 1)]
    red, empty = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), (236, 238, 242))
    expected = make_grid(
        [[empty, red, empty], [red, empty, empty]], column_labels="abc", row_labels=["x seed 0", "y seed 1"], cell=208
    )
    assert partial(variants, rows, 3, {1: red, 3: red}) == expected


def test_a_blind_test_ends_with_its_votes_in_a_file_and_begins_with_a_comparison_alone(context, page):
    owl = str(write_run(context.runs / "owl", photos=sample_data().resolve() / "owl"))
    with pytest.raises(RequestError, match="compare first"):
        page.blind.begin(None)
    kept = compared(page, [owl], "a {subject}")
    shown = page.blind.begin(kept)
    shown = dict(zip(page.blind.outputs, page.blind.vote(kept, shown[0], "B"), strict=True))
    [vote] = csv.DictReader(Path(shown[page.blind.export].value["path"]).read_text().splitlines())
    assert vote["choice"] == "B" and {vote["shown_as_a"], vote["shown_as_b"]} == {"base alone", "owl"}
    with pytest.raises(RequestError, match="start again"):
        page.blind.vote(kept, shown[page.blind.state], "A")
    assert page.blind.reset()[0] is None


def test_a_prompt_that_all_variants_share_is_told_as_it_was(context, page):
    owl = str(write_run(context.runs / "owl", photos=sample_data().resolve() / "owl"))
    kept = compared(page, [owl], "a red {subject}")
    assert kept["variants"] == kept["columns"] == ["base alone", "owl"]
    assert kept["rows"][0]["prompt"] == "a red sks bird"


def test_votes_between_two_dropped_files_of_one_name_are_counted_for_each(context, page):
    """Numbered as the chooser numbers them, in whichever order they are chosen."""
    dropped = []
    for seed in (1, 2):
        run = write_adapter(context.uploads / f"run {seed}", seed=seed)
        dropped.append(str(context.uploads / f"{seed:064x}" / "pytorch_lora_weights.safetensors"))
        Path(dropped[-1]).parent.mkdir()
        (run / "adapter" / "unet" / "adapter_model.safetensors").rename(dropped[-1])
    kept = compared(page, dropped[::-1], "a red bird", dropped=dropped, base_too=False, seeds="0, 1")
    first, second = (f"pytorch_lora_weights.safetensors ({number})" for number in (1, 2))
    assert kept["variants"] == kept["columns"] == [second, first]
    state = page.blind.begin(kept)[0]
    for pair in state["pairs"]:
        state, text = page.blind.vote(kept, state, "A" if kept["variants"][pair.a] == first else "B")[:2]
    told = [f"| {no_markdown(name)} | {won} | 2 |" for name, won in ((first, 2), (second, 0))]
    assert all(line in text.splitlines() for line in told)
    assert {vote.chosen for vote in state["votes"]} == {first}


def test_a_prompt_of_a_blind_test_is_shown_as_it_was_written(context, page):
    run = write_run(context.runs / "owl", photos=sample_data().resolve() / "owl", trigger="<img src=x>")
    kept = compared(page, [str(run)], "a *red* {subject}")
    assert kept["rows"][0]["prompt"] == "a *red* <img src=x> bird"
    assert r"a \*red\* \<img src=x\> bird" in page.blind.begin(kept)[1]


def a_picture(folder, row, column, seed):
    """A file of its own for each cell of a comparison, with its settings."""
    image = Image.new("RGB", (64, 64), (80 * row, 60 * column, 0))
    settings = {"prompt": f"prompt {row}", "negative_prompt": "", "seed": seed, "steps": 1, "guidance": 1,
                "sampler": "base", "width": 64, "height": 64, "base": "sprite", "adapters": []}  # fmt: skip
    save_png(image, folder / f"{row}-{column}.png", settings)
    return generation.Made(image, settings)


def test_a_blind_test_shows_and_counts_each_picture_on_its_side(context, page):
    """Who always chooses the picture with the higher DINO agrees with it in every pair."""
    dino = [[0.1, 0.5, 0.3], [0.2, 0.6, 0.4]]
    rows = [comparison.Row("prompt 0", 7), comparison.Row("prompt 1", 8)]
    names = ["base alone", "owl", "fox"]
    cells = [
        [comparison.Cell(a_picture(context.uploads, r, c, row.seed), dino[r][c], 0.5) for c in range(3)]
        for r, row in enumerate(rows)
    ]
    result = comparison.Comparison([comparison.Variant(name) for name in names], rows, cells)
    files = [context.uploads / f"{row}-{column}.png" for row in range(2) for column in range(3)]
    kept = for_views(result, files)

    shown = page.blind.begin(kept)
    assert len(shown[0]["pairs"]) == 6
    for pair in shown[0]["pairs"]:
        parts = dict(zip(page.blind.outputs, shown, strict=True))
        for side, column in ((page.blind.a, pair.a), (page.blind.b, pair.b)):
            assert Path(parts[side].value["path"]).read_bytes() == files[3 * pair.row + column].read_bytes()
        assert f"prompt {pair.row}" in parts[page.blind.text]
        choice = "A" if dino[pair.row][pair.a] > dino[pair.row][pair.b] else "B"
        shown = page.blind.vote(kept, shown[0], choice)
    state, text = shown[:2]
    for pair, vote in zip(state["pairs"], state["votes"], strict=True):
        assert vote.seed == (7, 8)[pair.row]
        assert (vote.shown_as_a, vote.shown_as_b) == (names[pair.a], names[pair.b])
        assert (vote.dino_a, vote.dino_b) == (dino[pair.row][pair.a], dino[pair.row][pair.b])
    assert "in **6 of 6** pairs" in text
    assert "| owl | 4 | 4 |" in text and "| fox | 2 | 4 |" in text and "| base alone | 0 | 4 |" in text


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
        page = ComparePage(context, Shared.across(gr.Tabs(), context, Desk(studio)))
        page.connect()
    session = SessionState(blocks)

    asked = page.answer_compare(
        history.new_owner(), "adapters", [owl], True, [], "a {subject}", "0, 1", 2, "run", None, "sprite", 1.0,
        "a red {subject}", [],
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
    for row, files, seed in zip(result["rows"], result["files"], (0, 1), strict=True):
        assert row["seed"] == seed
        assert [read_settings(Path(file))["seed"] for file in files] == [seed, seed]
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
