import json
import shutil
from dataclasses import asdict

import numpy as np
import orjson
import pandas as pd
import pytest
import torch
from helpers.app_server import write_run
from helpers.tiny_models import SPRITE_VOCABULARY, tiny_parts, write_tiny_single_file
from PIL import Image
from safetensors.torch import load_file, save_file

from symdream.data.samples import sample_data
from symdream.diffusion.embedded import sprite_folder
from symdream.errors import RequestError
from symdream.interop.export import export
from symdream.interop.header import read_adapter_header
from symdream.interop.inspect import inspect_adapter
from symdream_apps import library, watching
from symdream_apps.context import Context
from symdream_apps.exports import export_for_others
from symdream_apps.runs import Runs
from symdream_apps.upload import check_image


@pytest.fixture
def context(tmp_path):
    context = Context.at(tmp_path / "runs")
    write_run(context.runs / "owl", photos=sample_data().resolve() / "owl")
    return context


def test_a_card_tells_trigger_method_scores_and_size(context):
    summary = {"scores": {"before": {"dino": -0.19}, "after": {"dino": 0.314, "clip_t": 0.4}}}
    (context.runs / "owl" / "summary.json").write_text(json.dumps(summary))
    export(context.runs / "owl", "kohya", context.runs / "mine.safetensors")
    run, file = library.cards(context, Runs(context.runs))
    assert (run.kind, run.title) == ("run", "owl") and (file.kind, file.key) == ("file", "mine.safetensors")
    assert "sks bird · lora · sprite" in run.lines and "DINO 0.31 (base −0.19), CLIP-T 0.40" in run.lines
    stored = (context.runs / "mine.safetensors").stat().st_size
    assert file.lines[-1] == f"{stored / 1000:.1f} KB"
    assert run.picture.size == file.picture.size == (library.SIDE, library.SIDE)
    summary["class_drift"] = {"drift": 0.348, "pres": {"before": -0.1, "after": -0.02}}
    (context.runs / "owl" / "summary.json").write_text(json.dumps(summary))
    [run, _] = library.cards(context, Runs(context.runs))
    assert "DINO 0.31 (base −0.19), CLIP-T 0.40, class drift 0.35" in run.lines


@pytest.mark.parametrize(
    ("size", "words"),
    [(812, "812 B"), (8_290, "8.3 KB"), (1_400_000, "1.4 MB"), (3_440_000, "3.4 MB"), (1_700_000_000, "1.7 GB")],
)
def test_the_size_of_a_file_is_told_in_the_unit_that_fits(size, words):
    assert library.file_size(size) == words


def test_the_facts_tell_the_size_of_the_weights(context):
    facts = inspect_adapter(context.runs / "owl")
    rows = dict(library.facts_table(Runs(context.runs), "run", "owl", facts))
    assert rows["weights"].endswith(f"{facts['bytes'] / 1000:.1f} KB")


def test_a_broken_file_has_a_card_that_says_so(context):
    (context.runs / "broken.safetensors").write_bytes(b"nothing")
    card = library.cards(context, Runs(context.runs))[-1]
    assert card.key == "broken.safetensors" and card.lines[0].startswith("cannot be used")


def test_a_base_among_the_runs_has_a_card_that_says_what_it_is_for(context):
    gr = pytest.importorskip("gradio")
    from symdream_apps.library_page import _Detail

    told = read_adapter_header(context.runs / "owl/adapter/unet/adapter_model.safetensors").texts
    write_tiny_single_file(context.runs / "base.safetensors", metadata=told)  # as a merged export
    parts = tiny_parts("sd1", vocabulary=SPRITE_VOCABULARY)  # no file of such a base is one to load
    write_tiny_single_file(context.runs / "sprite.safetensors", parts=parts)
    save_file({"some.weight": torch.zeros(1)}, context.runs / "odd.safetensors", metadata=told)
    found = {card.key: card for card in library.cards(context, Runs(context.runs))}
    assert found["base.safetensors"].lines[0] == library.CHECKPOINT
    assert "none for a base: This checkpoint was trained with a tokenizer" in found["sprite.safetensors"].lines[0]
    assert found["odd.safetensors"].lines[0].startswith("cannot be used: No adapter weight was recognised")
    with gr.Blocks():
        detail = _Detail(context, None, Runs(context.runs))
    opened = detail.show(("file", "base.safetensors"))
    assert library.CHECKPOINT in opened[detail.title].value and not opened[detail.actions]["visible"]


ODD = {
    "state.json": [
        '{"status": "stopped", "step": "x"}', '{"status": "stopped", "step": 1e400, "steps": NaN}', '{"status": 5}',
        '{"status": "failed", "error": ["a"]}', '{"status": "stopped", "step": 1000000000000000000000}',
        '{"status": "failed", "error": "\\ud800"}', "[]", None,
    ],
    "summary.json": ['{"scores": "x"}', '{"scores": {"before": 1, "after": {"dino": "high", "clip_t": 0.4}}}',
                     '{"class_drift": 1}', '{"class_drift": {"drift": "x"}}', None],
    "metrics.jsonl": ['{"step": 1e999, "loss": 1}', None],
    "config.toml": ["subject = 3", "subjects = [1]", "subjects = []\nsubject = 3"],
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), [(name, content) for name in ODD for content in ODD[name]])
def test_one_odd_file_hides_no_run(context, name, content):
    """None is a folder of that name."""
    shutil.copytree(context.runs / "owl", context.runs / "odd")
    (context.runs / "odd" / name).unlink(missing_ok=True)
    if content is None:
        (context.runs / "odd" / name).mkdir()
    else:
        (context.runs / "odd" / name).write_text(content)
    runs = Runs(context.runs)
    assert {card.key for card in library.cards(context, runs)} == {"owl", "odd"}
    assert all(watching.label(status) and watching.sentence(runs, status) for status in runs.statuses())
    assert watching.curve(runs.get("odd")).empty and runs.start_next() is None
    orjson.dumps([asdict(status) for status in runs.statuses()])  # as the app's answers are written


@pytest.mark.parametrize("cut", [8, 15, 20, 30, 100])
def test_a_broken_picture_beside_an_adapter_is_no_picture(context, tmp_path, cut):
    broken = bytearray((sample_data() / "owl" / "00.png").read_bytes())
    broken[11] = 12  # the header says that it is shorter than one
    for number, data in enumerate((bytes(broken), bytes(broken[:cut]))):
        file = tmp_path / f"{number}.png"
        file.write_bytes(data)
        assert library._picture(file, "x").size == (library.SIDE, library.SIDE)
        assert watching.pictures([file]) == []


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_broken_avif_is_no_picture_either(context, tmp_path, cut):
    whole = tmp_path / "whole.avif"
    Image.open(sample_data() / "owl" / "00.png").convert("RGB").save(whole)
    file = tmp_path / "dog.png"
    file.write_bytes(whole.read_bytes()[: int(cut * whole.stat().st_size)])
    assert library._picture(file, "x").size == (library.SIDE, library.SIDE)
    with pytest.raises(RequestError, match=r"dog\.png is (not|a damaged)"):
        check_image(file)


def test_tables_and_plots_hold_what_inspect_found(context):
    facts = inspect_adapter(context.runs / "owl")
    rows = library.layer_rows(facts)
    assert len(rows) == len(facts["layers"]) == len(library.norms(facts))
    assert list(library.norms(facts).norm) == [layer["norm"] for layer in facts["layers"]]
    spectra = library.spectra(facts)
    shares = [layer["spectrum"][1] / layer["spectrum"][0] for layer in facts["layers"]]
    median = spectra[(spectra.line == "unet") & (spectra.number == 2)].share.item()
    assert median == pytest.approx(np.median(shares))
    assert (spectra[spectra.number == 1].share == 1).all()


@pytest.mark.parametrize("count", [0, 2, 16, 17])
def test_few_numbers_of_an_axis_are_text_in_the_order_of_the_numbers(count):
    table = pd.DataFrame([(number, 1.0) for number in range(1, count + 1)], columns=["number", "share"])
    shown = library.counted(table, "number")
    if count == 17:
        assert shown is table
    else:
        assert [int(text) for text in sorted(shown.number)] == list(range(1, count + 1))


def test_a_file_is_renamed_and_deleted_with_what_tells_about_it(context):
    export(context.runs / "owl", "kohya", context.runs / "mine.safetensors")
    with pytest.raises(RequestError, match="exists already"):
        (context.runs / "taken.safetensors").write_bytes(b"")
        library.rename_file(context, "mine.safetensors", "taken")
    for name in ("../x", "", "a/b", ".x"):
        with pytest.raises(RequestError):
            library.rename_file(context, "mine.safetensors", name)
    assert library.rename_file(context, "mine.safetensors", "ours") == "ours.safetensors"
    assert (context.runs / "ours.txt").is_file() and not (context.runs / "mine.txt").exists()
    place = library.delete_file(context, "ours.safetensors")
    assert place.is_relative_to(context.trash) and place.with_suffix(".txt").is_file()


def test_the_name_to_begin_a_new_one_with_is_whole(context):
    gr = pytest.importorskip("gradio")
    from symdream_apps.library_page import _Detail

    (context.runs / "owl").rename(context.runs / "owl-lr1.5e-4")
    export(context.runs / "owl-lr1.5e-4", "kohya", context.runs / "v1.5.safetensors")
    with gr.Blocks():
        detail = _Detail(context, None, Runs(context.runs))
    assert detail.show(("run", "owl-lr1.5e-4"))[detail.name] == "owl-lr1.5e-4"
    assert detail.show(("file", "v1.5.safetensors"))[detail.name] == "v1.5"


@pytest.mark.parametrize("key", ["owl/adapter/unet/adapter_model.safetensors", "owl/config.toml", "../x", "owl"])
def test_only_adapter_files_of_the_runs_folder_are_renamed_or_deleted(context, key):
    for act in (library.delete_file, lambda c, k: library.rename_file(c, k, "new")):
        with pytest.raises(RequestError):
            act(context, key)


@pytest.mark.parametrize("to", ["kohya", "diffusers", "peft"])
def test_an_export_can_be_served_and_stays_with_its_run(context, to):
    for _ in range(2):  # the second replaces the first
        files = export_for_others(context, context.runs / "owl", to)
    assert all(file.is_relative_to(context.uploads) and file.stat().st_size for file in files)
    assert (context.runs / "owl" / "exports").is_dir()
    if to != "peft":
        again = inspect_adapter(files[0])
        norms = [layer["norm"] for layer in inspect_adapter(context.runs / "owl")["layers"]]
        assert [layer["norm"] for layer in again["layers"]] == pytest.approx(norms, rel=1e-5)


def test_reports_are_those_of_folders_in_the_runs_folder(context, tmp_path):
    for name in ("compare-a", "compare-b"):
        (context.runs / name).mkdir()
        (context.runs / name / "report.html").write_text(name)
    (tmp_path / "report.html").write_text("outside")
    (context.runs / "link").symlink_to(tmp_path)
    (context.runs / "compare-c").mkdir()
    (context.runs / "compare-c" / "report.html").symlink_to(tmp_path / "report.html")
    assert {file.parent.name for file in library.reports(context)} == {"compare-a", "compare-b"}


@pytest.mark.parametrize("told", [str, lambda identity: {"identity": identity}], ids=["word", "mapping"])
def test_an_adapters_file_opens_no_base_outside_of_the_apps_folders(context, tmp_path, told):
    private = tmp_path / "private" / "base"
    shutil.copytree(sprite_folder("sprite-diffusion"), private)
    source = context.uploads / "x.safetensors"
    export(context.runs / "owl", "diffusers", source)
    texts = {"symdream": json.dumps({"method": "lora", "base": told(str(private))})}
    save_file(load_file(source), source, metadata=texts)
    for to in ("merged", "kohya"):
        with pytest.raises(RequestError, match="not to be had here"):
            export_for_others(context, source, to)
    assert not list(context.uploads.rglob("*merged*"))
