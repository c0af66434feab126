import math

import pytest
import torch

from symdream.metrics.bleeding import bleeding

X, Y = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


def turned(degrees):
    return torch.tensor([[math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]])


def test_outputs_like_their_own_photos_do_not_bleed():
    found = bleeding([X, Y], [X, Y])
    assert found["bleeding"] == [[None, 0], [0, None]] and found["margin"] == [1, 1]
    assert found["photos"] == [[None, 0], [0, None]]


def test_an_output_between_two_subjects_bleeds_by_its_cosine():
    found = bleeding([turned(60), Y], [X, Y])
    assert found["similarity"][0] == pytest.approx([0.5, math.sqrt(3) / 2])
    assert found["bleeding"][0][1] == pytest.approx(math.sqrt(3) / 2) and found["bleeding"][1][0] == pytest.approx(0)
    assert found["margin"][0] == pytest.approx(0.5 - math.sqrt(3) / 2), "it looks more like the other one"


def test_subjects_that_look_alike_are_not_said_to_bleed_for_that():
    photos = [torch.cat([turned(0), turned(10)]), torch.cat([turned(20), turned(30)])]
    found = bleeding(photos, photos)
    assert found["bleeding"][0][1] == pytest.approx(0)
    assert found["photos"][0][0] == pytest.approx(math.cos(math.pi / 18))


def test_one_subject_cannot_bleed():
    with pytest.raises(ValueError, match="two subjects"):
        bleeding([X], [X])
