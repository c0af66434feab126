"""The report says what the numbers say, holds itself together, and stays small."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.comparisons import simulated, unfinish
from helpers.icc import DISPLAY_P3, in_srgb, profile
from PIL import Image

from symdream.bench import pictures
from symdream.bench.analysis import analyse
from symdream.bench.environments import distinct
from symdream.bench.report import FIGURES, draw, write_report
from symdream.bench.sections import provenance
from symdream.bench.subjects import BenchSubject
from symdream.bench.svg import in_file
from symdream.bench.tables import latex, scope
from symdream.bench.wording import headline, number, p_value, warnings

VOID = {"meta", "img", "br", "path", "use", "rect"}


def analysed(content, rows):
    return content | analyse(content, rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A page of a partial grid, with pictures of one subject."""
    content, rows = simulated({"singlora-r8": -0.06}, noise=0.02, subjects=8)
    content, rows = unfinish(content, rows, "dora-r8-subject-01-s1", status="failed", error="<b>out of memory</b>")
    content["notes"] = ["the scores mean nothing"]
    folder = tmp_path_factory.mktemp("compare")
    for arm in content["grid"]["arms"]:
        for i in range(4):
            place = folder / "cells" / f"{arm['id']}-subject-00-s0" / "pictures" / "step-120" / f"{i:02d}-0.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((128, 128), 80).save(place)
    content = analysed(content, rows)
    path = write_report(folder, content)
    return content, folder, path.read_text(encoding="utf-8")


class Checked(HTMLParser):
    """Collects addresses, ids and text, and refuses tags that do not match."""

    def __init__(self):
        super().__init__()
        self.open, self.addresses, self.ids, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    page = Checked()
    page.feed(html)
    assert not page.open
    return page


def test_the_page_needs_nothing_from_outside(finished):
    _, _, html = finished
    page = read(html)
    assert all(a.startswith(("#", "data:image/")) for a in page.addresses)
    assert "@import" not in html and not re.search(r"url\((?!#|\")", html)
    assert len(page.ids) == len(set(page.ids))
    inside = {address[1:] for address in page.addresses if address.startswith("#")}
    assert inside <= set(page.ids)


def test_every_plot_is_in_the_page_and_a_file_of_its_own(finished):
    content, folder, html = finished
    names = {name for name, _, _ in FIGURES}
    assert names == {path.stem for path in (folder / "figures").glob("*.svg")}
    assert html.count("<svg") == len(names)
    for path in (folder / "figures").glob("*.svg"):
        ElementTree.parse(path)
        # No placeholder of a colour is left.
        assert not re.search("#0b0c0d|#8a8b8c|#b9babb|#fdfefd|var\\(", path.read_text())
    assert "var(--ink)" in html and "#0b0c0d" not in html
    # Drawn again, a plot is the same: nothing in it depends on the time.
    again = draw(content | {"cells": [], "tuning": []})
    assert in_file(again["forest"][0]) == (folder / "figures" / "forest.svg").read_text(encoding="utf-8")


def test_headline_and_warnings_come_first(finished):
    content, _, html = finished
    text = " ".join("".join(read(html).text).split())
    told = headline(content)
    assert "SingLoRA r8, with 53% of the parameters of LoRA r8, is inferior to LoRA r8" in told and told in text
    lines = warnings(content)
    assert lines[0] == "the scores mean nothing"
    assert any(line.startswith("Partial: 111 of 112 cells are finished (1 failed)") for line in lines)
    assert any("CLIP-I measures class and style more than identity (AUC 0.550" in line for line in lines)
    assert not any(line.startswith("DINO measures") for line in lines)
    for line in lines:
        assert line in text and text.index(line) < text.index("Provenance")


def test_the_numbers_of_the_page_are_those_of_the_results(finished):
    content, _, html = finished
    text = "".join(read(html).text)
    for entry in content["paired"][:4]:
        assert f"{number(entry['mean'], sign=True)} [{number(entry['low'], sign=True)}, " in text
    for row in content["analysis"]["arms"].values():
        assert number(row["scores"]["dino"]["mean"]) in text
    assert number(content["analysis"]["references"]["ceiling"]["dino"]) in text
    assert "<b>out of memory</b>" in text and "<b>out of memory</b>" not in html  # escaped


def test_pictures_are_inside_with_their_methods_and_prompts(finished):
    content, _, html = finished
    page = read(html)
    assert sum(address.startswith("data:") for address in page.addresses) >= 7 * 4
    assert "base alone" in "".join(page.text) and "a {subject} on background 3" in "".join(page.text)
    assert "learned from" not in "".join(page.text)  # simulated subjects have no photos


def test_prompts_are_shown_as_they_were_drawn(finished, monkeypatch):
    content, _, _ = finished
    alpha = BenchSubject("alpha", Path("nowhere"), "owl", [], [])
    monkeypatch.setattr(pictures, "_subjects", lambda content: {content["grid"]["subjects"][0]: alpha})
    album = pictures.Album(content, Path("nowhere"))
    first, second = content["grid"]["subjects"][:2]
    assert album.as_drawn(["a {subject} here"], first) == ["a sks owl here"]
    assert album.as_drawn(["a {subject} here"], second) == ["a {subject} here"]  # its class is not known here


@pytest.mark.parametrize(
    ("subjects", "told"), [(4, "0.125, Holm-corrected 0.500"), (6, "0.031, Holm-corrected 0.125"), (8, None)]
)
def test_fewest_subjects_are_told_that_nothing_can_be_significant(subjects, told):
    """Four comparisons, each with a least p of 2 / 2^subjects: six subjects could show one of them, not all."""
    content = analysed(*simulated({}, subjects=subjects))
    assert content["analysis"]["primary"]["smallest_p_holm"] == 4 * 2 / 2**subjects
    lines = [line for line in warnings(content) if "no difference can be significant" in line]
    assert len(lines) == (1 if told else 0) and all(told in line for line in lines)


def test_fixed_settings_and_a_weak_instrument_are_said():
    content, rows = simulated({}, subjects=2)
    content["grid"]["tuned"], content["tuning"] = False, []
    content["instrument"]["dino"] |= {"auc": 0.7, "enough": False}
    lines = warnings(analysed(content, rows))
    assert any(line.startswith("Fixed: no rate was tuned") for line in lines)
    assert any(line.startswith("DINO measures class and style more than identity (AUC 0.700") for line in lines)


def test_cells_of_several_machines_or_number_formats_are_told():
    content, rows = simulated({}, subjects=2)
    one = content["environment"] | {"dtype": "bfloat16"}
    content["environments"] = [one]
    content = analysed(content, rows)
    assert not any("computed on several" in line for line in warnings(content))
    assert distinct([content["environment"], one, one]) == [one]
    content["environments"] = [one, one | {"dtype": "float32", "device": "a GPU"}]
    told = next(line for line in warnings(content) if "computed on several" in line)
    assert "devices and number formats" in told
    assert [name for name, _ in provenance(content)].count("machine") == 2
    assert dict(provenance(content))["machine"].startswith("a GPU, float32, 2 cores")


def test_dropped_pairs_are_in_the_headlines_warnings():
    content, rows = simulated({}, subjects=3, depth={"symlora-r8": -0.2})
    lines = warnings(analysed(content, rows))
    assert any(line.startswith("Against SymLoRA r8 6 of 6 pairs were dropped") for line in lines)


def test_a_comparison_without_any_cell_has_a_page(tmp_path):
    content, _ = simulated({}, subjects=1)
    content = analysed(content | {"cells": [], "complete": False}, [])
    html = write_report(tmp_path, content).read_text()
    read(html)
    assert "No pair of runs of the primary family is finished yet." in html
    assert "Partial: no cell has been started." in html
    assert "holds the scores alone" in html


def test_old_plots_do_not_stay(finished, tmp_path):
    content, rows = simulated({}, subjects=2)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "tuning.svg").write_text("old")
    content["tuning"], content["cells"] = [], []
    write_report(tmp_path, analysed(content, rows))
    assert not (tmp_path / "figures" / "tuning.svg").exists()


def test_tables_as_markdown_and_latex(finished):
    content, folder, _ = finished
    markdown = (folder / "table.md").read_text()
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows[:12]}) == 1
    assert markdown.startswith(headline(content)) and "> Partial" in markdown
    tex = latex(content, ["50 % of this & that"])
    assert tex.count(r"\begin{tabular}") == tex.count(r"\end{tabular}") == 2
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    assert not any(re.search(r"(?<!\\)[%#]", line) for line in body) and "−" not in tex and "±" not in "".join(body)
    for line in body:
        if line.endswith(r"\\"):
            assert line.count(" & ") in (6, 11)


def test_the_table_tells_how_many_pictures_a_run_has():
    content = analysed(*simulated({}, subjects=2, prompts=3, image_seeds=2))
    assert ", 6 pictures a run after" in scope(content)
    content["grid"]["prompts"]["subject-01"] = ["a {subject}"]
    assert ", 2 to 6 pictures a run after" in scope(content)
    content["grid"]["prompts"] = {}
    assert ", 0 pictures a run after" in scope(content)


def test_numbers_as_people_read_them():
    assert number(-0.0121) == "−0.012" and number(0.5, sign=True) == "+0.500" and number(None) == "–"
    assert number(-0.0001) == "0.000" == number(0.0001, sign=True)
    assert p_value(0.00012) == "0.00012" and p_value(0.04) == "0.040" and p_value(1e-9) == "< 0.00001"


def test_photos_in_the_report_have_their_true_colours(tmp_path):
    pixels = np.full((48, 64, 3), (200, 60, 60), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png", icc_profile=profile(DISPLAY_P3))
    shown = pictures.Album(simulated()[0], tmp_path).picture(tmp_path / "photo.png")
    with Image.open(io.BytesIO(base64.b64decode(shown.partition(",")[2]))) as image:
        colour = np.asarray(image, float).mean((0, 1))
    assert np.abs(colour - in_srgb(pixels, DISPLAY_P3)[0, 0]).max() < 3 < np.abs(colour - pixels[0, 0]).max()
