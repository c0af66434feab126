"""The first picture of a grid's last row is found again, whatever labels the grid has."""

import numpy as np
import pytest
from PIL import Image

from symdream.diffusion.grid import first_of_last_row, make_grid


@pytest.mark.parametrize(
    "labels", [{}, {"row_labels": ["a", "step 00040"]}, {"column_labels": ["long words " * 9] * 2}]
)
def test_the_first_of_the_last_row_comes_out_as_it_went_in(labels):
    colours = [["red", "green"], ["blue", "white"]]
    grid = make_grid([[Image.new("RGB", (64, 64), c) for c in row] for row in colours], title="a title", **labels)
    assert np.array_equal(first_of_last_row(grid), Image.new("RGB", (192, 192), "blue"))
