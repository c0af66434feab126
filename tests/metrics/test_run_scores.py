"""A scored subject's folder, whole or as it was before, and what the run's summary holds of its scores."""

import json

import pytest
from helpers.disk import file_size_limit
from helpers.encoder_folders import picture
from PIL import Image

from symdream.errors import WorkError
from symdream.metrics.run_scores import Scored, short_drift, short_scores

SAMPLING = {"sampler": "ddim", "steps": 2, "guidance": 4.0, "width": 128, "height": 128}


@pytest.mark.parametrize("there", [False, True])
def test_scores_on_a_full_disk_leave_what_was_there_and_nothing_else(there, tmp_path):
    result = {"seeds": [0], "base": {"identity": "sprite"}, "sampling": SAMPLING, "weight": 1.0}
    scored = Scored(result, [picture(0)], [picture(1)], ["a sks bird"], [0], [], [], [])
    output, before = tmp_path / "evaluation", []
    if there:
        scored.write(output, "owl")
        before = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
        assert before == [
            *("evaluation", "evaluation/after", "evaluation/after/00-0.png"),
            *("evaluation/before", "evaluation/before/00-0.png", "evaluation/grid.png", "evaluation/scores.json"),
        ]
    with file_size_limit(1000), pytest.raises(WorkError, match="Could not write .*/evaluation: File too large"):
        scored.write(output, "owl")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == before


def test_a_pictures_settings_say_by_which_adapter_and_weight_it_was_drawn(tmp_path):
    result = {"seeds": [3, 4], "base": {"identity": "sprite"}, "sampling": SAMPLING, "weight": 0.8}
    pictures = [[picture(10 * side + i) for i in range(4)] for side in range(2)]
    asked = ["a sks bird", "a sks bird", "a red sks bird", "a red sks bird"]
    class_pictures = [[picture(5)], [picture(6)]]
    scored = Scored(result, *pictures, asked, [3, 4, 3, 4], *class_pictures, [("a bird", 9)])
    scored.write(tmp_path / "evaluation", "owl")
    names = ["00-3.png", "00-4.png", "01-3.png", "01-4.png"]
    places = [("", side, name, asked[i], i) for side in (0, 1) for i, name in enumerate(names)]
    places += [("class", side, "00-9.png", "a bird", 0) for side in (0, 1)]
    for place, side, name, prompt, i in places:
        drawn = Image.open(tmp_path / "evaluation" / place / ("before", "after")[side] / name)
        told = json.loads(drawn.text["symdream"])
        assert drawn.tobytes() == (class_pictures if place else pictures)[side][i].tobytes()
        assert (told["prompt"], told["seed"]) == (prompt, int(name[3]))
        assert (told["adapter"], told.get("weight")) == ((None, None), ("owl", 0.8))[side]


def test_the_summarys_scores_are_the_results_own_and_its_drift_the_mean_over_subjects():
    names = ("before", "after", "ceiling")
    rows = {row: {"dino": i, "clip_i": i + 0.1, "clip_t": i + 0.2} for i, row in enumerate(names)}
    result = {row: {**scores, "images": []} for row, scores in rows.items()}
    assert short_scores(result) == rows
    del result["ceiling"], rows["ceiling"]
    assert short_scores(result) == rows
    drifts = [{"class_drift": {"drift": d, "pres": {"before": d + 1, "after": d + 2}}} for d in (0.25, 0.75)]
    assert short_drift(drifts) == {"drift": 0.5, "pres": {"before": 1.5, "after": 2.5}}
