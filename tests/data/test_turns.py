from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symdream.data import draws
from symdream.data.turns import turn


@given(
    seed=st.integers(0, 2**40),
    entries=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    step_samples=st.integers(1, 6),
    epochs=st.integers(1, 3),
)
@settings(deadline=None, max_examples=50)
def test_every_entry_is_shown_equally_often_in_every_block_of_steps(seed, entries, step_samples, epochs):
    block = sum(entries)
    for epoch in range(epochs):
        shown = Counter()
        for step in range(epoch * block, (epoch + 1) * block):
            bucket, visit = turn(seed, step, entries)
            for place in range(step_samples):
                entry = draws.image_index(seed, visit * step_samples + place, entries[bucket], f"b{bucket}")
                shown[bucket, entry] += 1
        everyone = {(b, e) for b, count in enumerate(entries) for e in range(count)}
        assert shown == Counter({one: step_samples for one in everyone})


@settings(deadline=None)
@given(seed=st.integers(0, 2**40), step=st.integers(0, 10**6))
def test_one_bucket_is_no_draw_at_all(seed, step):
    assert turn(seed, step, [7]) == (0, step)


def test_visits_count_the_earlier_steps_of_the_same_bucket():
    seen = Counter()
    for step in range(60):
        bucket, visit = turn(3, step, [2, 1, 4])
        assert visit == seen[bucket]
        seen[bucket] += 1


@pytest.mark.parametrize("seed", range(3))
def test_buckets_come_in_another_order_every_time(seed):
    orders = {tuple(turn(seed, step, [2, 3])[0] for step in range(e * 5, e * 5 + 5)) for e in range(10)}
    assert len(orders) > 3
