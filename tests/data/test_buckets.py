import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from symdream.data.buckets import assign, bucket_sizes, bucket_step, cuts

sides = st.integers(32, 4000)


@pytest.mark.parametrize(
    ("resolution", "factor", "step"),
    [(512, 8, 64), (768, 8, 64), (1024, 8, 64), (256, 8, 32), (128, 4, 16), (64, 8, 16)],
)
def test_steps_are_64_pixels_on_real_bases_and_finer_below(resolution, factor, step):
    assert bucket_step(resolution, factor) == step


@pytest.mark.parametrize(("resolution", "factor"), [(512, 8), (1024, 8), (128, 4), (64, 8), (640, 8)])
def test_buckets_hold_at_most_the_resolutions_area_in_both_orientations(resolution, factor):
    step = bucket_step(resolution, factor)
    sizes = bucket_sizes(resolution, step)
    assert len(set(sizes)) == len(sizes) > 2
    for width, height in sizes:
        assert width % step == height % step == 0 and width * height <= resolution**2
        assert max(width, height) <= 2 * min(width, height) and (height, width) in sizes
    assert (resolution // step * step,) * 2 in sizes


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (1024, 64), (128, 16), (640, 64)])
def test_every_size_is_there_that_no_longer_side_would_fit(resolution, step):
    """Up to 1 : 2 itself, as 1408 × 704 at 1024 px."""
    sides = range(step, 4 * resolution, step)
    fitting = {(w, h) for w in sides for h in sides if w * h <= resolution**2}
    fullest = {(w, h) for w, h in fitting if (w, h + step) not in fitting and w <= 2 * h and h <= 2 * w}
    square = (resolution // step * step,) * 2
    assert set(bucket_sizes(resolution, step)) == fullest | {(h, w) for w, h in fullest} | {square}


@settings(deadline=None)
@given(width=sides, height=sides, resolution=st.sampled_from([128, 512, 1024]))
def test_a_photo_goes_where_the_least_is_cut_away(width, height, resolution):
    sizes = bucket_sizes(resolution, bucket_step(resolution, 8))

    def lost(bucket):
        scale = max(bucket[0] / width, bucket[1] / height)  # covers the bucket
        return 1 - bucket[0] * bucket[1] / (width * scale * height * scale)

    assert lost(assign((width, height), sizes)) <= min(map(lost, sizes)) + 1e-6


@pytest.mark.parametrize("buckets", list(itertools.permutations([(96, 64), (192, 128), (48, 32)])))
def test_of_buckets_that_keep_equally_much_the_one_with_most_pixels_is_taken(buckets):
    assert assign((300, 200), list(buckets)) == (192, 128)


@settings(deadline=None)
@given(sides, sides, st.sampled_from([64, 128, 512]), st.sampled_from(["center", "random"]))
def test_a_cut_lies_inside_the_photo_and_keeps_its_proportions(width, height, resolution, crop):
    size = assign((width, height), bucket_sizes(resolution, bucket_step(resolution, 8)))
    places = cuts((width, height), size, crop, flip=True)
    assert 1 <= len(places) <= 4 and len({plain.box for plain, _ in places}) == len(places)
    for plain, mirrored in places:
        left, top, right, bottom = plain.box
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert right - left == width or bottom - top == height
        # No side is stretched by more than a pixel's rounding.
        assert abs((right - left) * size[1] - (bottom - top) * size[0]) <= max(size)
        assert mirrored.box == plain.box and mirrored.flip and not plain.flip


def test_random_cuts_reach_both_ends_and_center_is_the_middle():
    assert [place[0].box for place in cuts((100, 40), (64, 64), "random")] == [
        (0, 0, 40, 40),
        (20, 0, 60, 40),
        (40, 0, 80, 40),
        (60, 0, 100, 40),
    ]
    assert [place[0].box for place in cuts((101, 40), (64, 64), "center")] == [(30, 0, 70, 40)]
    assert len(cuts((42, 40), (64, 64), "random")) == 3, "0, 1 and 2 pixels from the left"


def test_a_cut_tells_where_it_lies_in_the_scaled_photo():
    [[plain, mirrored]] = cuts((300, 100), (50, 50), "center", flip=True)
    assert plain.top_left == mirrored.top_left == (0, 50)
    first = cuts((300, 100), (50, 50), "random", flip=True)[0]
    assert [cut.top_left for cut in first] == [(0, 0), (0, 100)], "the left end of a photo is its mirror's right end"


def test_the_mirrored_cut_is_the_mirrored_picture():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8))
    [[plain, mirrored]] = cuts(image.size, (64, 64), "center", flip=True)
    assert np.array_equal(np.asarray(plain.apply(image))[:, ::-1], np.asarray(mirrored.apply(image)))
