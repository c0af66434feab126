"""The AUC against its definition, and how cut-outs agree with true masks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from symdream.bench.cutout import cut_out, on_gray, overlap
from symdream.bench.grid import build
from symdream.bench.instrument import auc
from symdream.bench.instrument import test_instrument as measure
from symdream.bench.subjects import read_subjects
from symdream.bench.workshop import Workshop

values = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7]), min_size=1, max_size=12)


@given(values, values)
def test_auc_is_the_probability_of_the_larger_one(same, other):
    wins = [(a > b) + (a == b) / 2 for a in same for b in other]
    assert auc(same, other) == pytest.approx(sum(wins) / len(wins))


def test_auc_of_known_cases():
    assert auc([0.9, 0.8], [0.1, 0.2]) == 1 and auc([0.1], [0.9]) == 0 and auc([0.5], [0.5]) == 0.5


def test_the_samples_subjects_are_cut_out_as_their_masks_say():
    overlaps = [
        overlap(cut_out(photo), Image.open(subject.masks[Path(name).stem]).convert("L"))
        for subject in read_subjects(None, embedded=True).values()
        for name, photo in subject.photos().items()
    ]
    assert len(overlaps) == 80 and np.mean(overlaps) > 0.9 and np.mean(np.array(overlaps) > 0.8) > 0.85


def test_nothing_is_cut_out_of_an_empty_picture():
    assert cut_out(Image.new("RGB", (128, 128), (200, 30, 60))) is None


def test_a_cutout_on_gray_shows_the_subject_alone():
    picture, mask = Image.new("RGB", (100, 100), "red"), Image.new("L", (100, 100))
    mask.paste(255, (40, 30, 60, 50))
    square = on_gray(picture, mask)
    assert square.size == (24, 24)
    colours = {colour: count for count, colour in square.getcolors()}
    assert colours == {(255, 0, 0): 400, (128, 128, 128): 176}


def test_overlap_is_intersection_over_union():
    a, b = np.zeros((128, 128), np.uint8), np.zeros((128, 128), np.uint8)
    a[:, :64], b[:, 32:96] = 255, 255
    assert overlap(Image.fromarray(a), Image.fromarray(b)) == pytest.approx(1 / 3)
    assert overlap(None, Image.fromarray(b)) == 0


@pytest.mark.slow
def test_the_embedded_dino_tells_the_samples_subjects_apart(tmp_path):
    workshop = Workshop(build({}, "smoke"), tmp_path)
    found = measure(workshop)
    assert found["backgrounds_swapped"] and found["cutout_iou"] > 0.9
    assert found["dino"]["enough"] and found["dino"]["auc"] > 0.98
    # Of a subject's 5 photos on 2 backgrounds each, 36 pairs are of two photos on two backgrounds.
    assert found["dino"]["pairs_same"] == 16 * 36 == found["clip_i"]["pairs_same"]
    assert found["clip_i"]["auc"] < found["dino"]["auc"]
