import json
import os
import shutil
import zipfile
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
from symdream.diffusion.grid import make_grid
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
    for line, quantile in (("unet, 10 %", 0.1), ("unet, 90 %", 0.9)):
        told = spectra[(spectra.line == line) & (spectra.number == 2)].share.item()
        assert told == pytest.approx(np.quantile(shares, quantile))
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
    Image.new("RGB", (8, 8)).save(context.runs / "mine.png")
    assert library.rename_file(context, "mine.safetensors", "ours") == "ours.safetensors"
    place = library.delete_file(context, "ours.safetensors")
    assert place.is_relative_to(context.trash)
    assert {file.name for file in place.parent.iterdir()} == {
        f"ours.{ending}" for ending in ("safetensors", "txt", "png")
    }
    assert not {file.stem for file in context.runs.iterdir()} & {"mine", "ours"}


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


def test_a_card_shows_the_middle_of_what_the_run_drew_last_and_a_file_the_picture_beside_it(context):
    red, green, blue = (Image.new("RGB", (50, 50), name) for name in ("red", "lime", "blue"))
    wide = Image.new("RGB", (150, 50))
    for place, part in enumerate((red, green, blue)):
        wide.paste(part, (50 * place, 0))
    export(context.runs / "owl", "kohya", context.runs / "mine.safetensors")
    for shown in (wide, wide.transpose(Image.Transpose.ROTATE_90)):
        shown.save(context.runs / "mine.png")
        _, file = library.cards(context, Runs(context.runs))
        assert file.picture.getcolors() == [(library.SIDE**2, (0, 255, 0))]
    (context.runs / "owl" / "samples").mkdir()
    drawn = context.runs / "owl" / "samples" / "step-00010.png"
    make_grid([[red, red], [blue, red]], row_labels=["step 5", "step 10"]).save(drawn)
    run, _ = library.cards(context, Runs(context.runs))
    assert run.picture.getcolors() == [(library.SIDE**2, (0, 0, 255))]


def test_a_card_tells_how_a_run_is_doing_until_it_is_finished(context):
    write_run(context.runs / "fox", photos=context.samples / "fox", base="owner/name@1234")
    size = library.file_size((context.runs / "fox/adapter/unet/adapter_model.safetensors").stat().st_size)
    for status, told in (("stopped", ["stopped at 3/4"]), ("finished", [])):
        (context.runs / "fox" / "state.json").write_text(json.dumps({"status": status, "step": 3, "steps": 4}))
        [card] = [card for card in library.cards(context, Runs(context.runs)) if card.key == "fox"]
        assert card.lines == ["sks bird · lora · owner/name", *told, size]
    assert card.picture.getpixel((library.SIDE // 2, 1)) == library._picture(
        context.samples / "fox" / "00.png", ""
    ).getpixel((library.SIDE // 2, 1))


def test_the_facts_of_a_run_tell_what_it_cost_and_its_ranks(context):
    (context.runs / "owl" / "summary.json").write_text('{"seconds_total": 600, "peak_memory_bytes": 2e9}')
    facts = inspect_adapter(context.runs / "owl") | {"ranks": [2, 4, 8]}
    rows = dict(library.facts_table(Runs(context.runs), "run", "owl", facts))
    assert (rows["time"], rows["peak memory"], rows["rank"]) == ("10 min", "2.0 GB", "2 to 8")


def test_a_layer_is_told_by_its_shape_and_the_share_of_its_largest_singular_value(tmp_path):
    random = torch.Generator().manual_seed(0)
    down, up = torch.randn(4, 24, generator=random), torch.randn(8, 4, generator=random)
    stem = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, tmp_path / "a.safetensors")
    values = torch.linalg.svdvals(up @ down)
    [[name, rank, shape, norm, largest, share]] = library.layer_rows(inspect_adapter(tmp_path / "a.safetensors"))
    assert name.startswith("unet.") and (rank, shape) == (4, "24 → 8")
    assert (norm, largest) == pytest.approx((values.norm().item(), values[0].item()), rel=5e-3)
    assert share == f"{values[0] ** 2 / (values**2).sum():.0%}"


def test_the_metadata_of_symdream_are_told_one_by_one(context):
    rows = dict(library.metadata_rows(inspect_adapter(context.runs / "owl")))
    assert rows["format"] == "pt" and rows["symdream.trigger"] == "sks" and rows["symdream.rank"] == "2"


def test_what_tells_of_another_file_is_not_written_over(context):
    export(context.runs / "owl", "kohya", context.runs / "mine.safetensors")
    (context.runs / "ours.txt").write_text("of somebody else")
    assert library.rename_file(context, "mine.safetensors", "mine.safetensors") == "mine.safetensors"
    assert library.rename_file(context, "mine.safetensors", " ours.safetensors ") == "ours.safetensors"
    assert (context.runs / "ours.txt").read_text() == "of somebody else" and (context.runs / "mine.txt").is_file()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_an_export_has_the_numbers_and_the_weight_that_are_asked_for(context, dtype):
    """Of half the weight, each update is half of what it was."""
    norms = [layer["norm"] for layer in inspect_adapter(context.runs / "owl")["layers"]]
    file, *_ = export_for_others(context, "owl", "diffusers", dtype=dtype, weight=0.5)
    facts = inspect_adapter(file)
    assert facts["dtypes"] == [{"fp16": "F16", "bf16": "BF16"}[dtype]]
    assert [layer["norm"] for layer in facts["layers"]] == pytest.approx([norm / 2 for norm in norms], rel=1e-2)
    with pytest.raises(RequestError, match="number format"):
        export_for_others(context, "owl", "diffusers", dtype="int8")


def test_a_folder_for_peft_comes_as_one_archive_of_itself_alone(context):
    export_for_others(context, "owl", "kohya")
    [archive] = export_for_others(context, "owl", "peft")
    with zipfile.ZipFile(archive) as opened:
        files = {name for name in opened.namelist() if not name.endswith("/")}
    folder = context.runs / "owl" / "exports" / "owl-peft"
    assert files == {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_the_newest_report_is_the_first(context):
    for age, name in enumerate(("b", "c", "a")):
        (context.runs / name).mkdir()
        (context.runs / name / "report.html").touch()
        os.utime(context.runs / name / "report.html", (1000 - age,) * 2)
    assert [file.parent.name for file in library.reports(context)] == ["b", "c", "a"]


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
