"""results.json and scores.csv come back as they were written; others' formats are refused."""

import json

import pytest

from symdream.bench.results import COLUMNS, read_results, read_rows, write_results, write_rows
from symdream.errors import RequestError

ROW = dict.fromkeys(COLUMNS) | {
    "cell": "lora-r8-fox-s0", "arm": "lora-r8", "method": "lora", "rank": 8, "subject": "fox", "training_seed": 0,
    "step": 120, "prompt": 'a {subject}, "striped"\nblue', "image_seed": 1, "dino": 0.25, "clip_t": -0.5,
    "memorised": 0, "nearest_photo": "00.png",
}  # fmt: skip


def test_scores_come_back(tmp_path):
    base = ROW | {"cell": None, "arm": "base", "dino_matched": 0.125}
    write_rows(tmp_path, [ROW, base])
    assert read_rows(tmp_path) == [ROW, base]


def test_results_come_back_one_line_a_cell(tmp_path):
    content = {"format": 1, "grid": {"name": "é"}, "cells": [{"id": "a", "points": []}, {"id": "b", "points": []}]}
    write_results(tmp_path, content)
    assert read_results(tmp_path) == content
    assert '{"id": "a", "points": []},\n{"id": "b"' in (tmp_path / "results.json").read_text()


def test_there_may_be_no_results_yet(tmp_path):
    assert read_results(tmp_path) is None and read_rows(tmp_path) == []


@pytest.mark.parametrize("content", [{"format": 2, "symdream": "9.9"}, {}, [1]])
def test_another_format_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match="reads format 1"):
        read_results(tmp_path)


def test_a_cut_file_is_refused(tmp_path):
    (tmp_path / "results.json").write_text('{"format": 1, "cells": [')
    with pytest.raises(RequestError, match="cannot be read"):
        read_results(tmp_path)


def test_a_damaged_line_of_scores_is_named(tmp_path):
    write_rows(tmp_path, [ROW])
    file = tmp_path / "scores.csv"
    file.write_text(file.read_text().replace("0.25", "many"))
    with pytest.raises(RequestError, match="Line 2"):
        read_rows(tmp_path)
