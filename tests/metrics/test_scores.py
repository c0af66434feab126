"""Scores against naive loops, and what must hold for any embeddings."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from symdream.metrics.scores import (
    COPY,
    clip_i,
    clip_t,
    copies,
    dino_score,
    diversity,
    drift,
    memorisation,
    memorisation_threshold,
    real_vs_real,
)

WIDTH = 5
UNHURRIED = settings(deadline=None, max_examples=50)  # a busy machine is no error


def embeddings(rows: int):
    number = st.floats(-10, 10, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-3)
    row = st.lists(number, min_size=WIDTH, max_size=WIDTH).filter(any)
    return st.lists(row, min_size=rows, max_size=rows).map(lambda r: torch.tensor(r, dtype=torch.float64))


sets = st.integers(1, 6).flatmap(embeddings)
larger_sets = st.integers(2, 6).flatmap(embeddings)
equal_sets = st.integers(1, 6).flatmap(lambda n: st.tuples(embeddings(n), embeddings(n)))


def cosine(x, y) -> float:
    dot = sum(a * b for a, b in zip(x.tolist(), y.tolist(), strict=True))
    return dot / math.sqrt(sum(a * a for a in x.tolist())) / math.sqrt(sum(b * b for b in y.tolist()))


def mean(numbers) -> float:
    numbers = list(numbers)
    return sum(numbers) / len(numbers)


@UNHURRIED
@given(sets, sets)
def test_dino_and_clip_i_are_the_mean_over_all_pairs(gen, ref):
    expected = mean(cosine(x, y) for x in gen for y in ref)
    assert dino_score(gen, ref) == pytest.approx(expected, abs=1e-12)
    assert clip_i(gen, ref) == pytest.approx(expected, abs=1e-12)
    assert -1 <= dino_score(gen, ref) <= 1


@UNHURRIED
@given(equal_sets)
def test_clip_t_compares_each_image_with_its_own_prompt_only(pair):
    images, texts = pair
    expected = mean(cosine(x, y) for x, y in zip(images, texts, strict=True))
    assert clip_t(images, texts) == pytest.approx(expected, abs=1e-12)


def test_clip_t_notices_swapped_prompts_where_dino_does_not():
    x = torch.eye(3)
    assert clip_t(x, x) == pytest.approx(1)
    assert clip_t(x, x[[1, 2, 0]]) == pytest.approx(0)
    assert dino_score(x, x) == pytest.approx(dino_score(x, x[[1, 2, 0]]))


@UNHURRIED
@given(larger_sets)
def test_real_vs_real_leaves_out_self_pairs(ref):
    count = range(len(ref))
    expected = mean(cosine(ref[i], ref[j]) for i in count for j in count if i != j)
    assert real_vs_real(ref) == pytest.approx(expected, abs=1e-12)
    pairs = {(i, j): cosine(ref[i], ref[j]) for i in count for j in count if i < j}
    assume(all(abs(value - COPY) > 1e-9 for value in pairs.values()))
    assert copies(ref) == [pair for pair, value in pairs.items() if value > COPY]
    others = [value for value in pairs.values() if value <= COPY]
    assert memorisation_threshold(ref) == (pytest.approx(max(others), abs=1e-12) if others else None)


@UNHURRIED
@given(larger_sets)
def test_diversity_is_the_complement_of_the_mean_similarity(emb):
    assert diversity(emb) == pytest.approx(1 - real_vs_real(emb), abs=1e-12)
    assert -1e-12 <= diversity(emb) <= 2


@UNHURRIED
@given(equal_sets)
def test_drift_is_the_mean_distance_of_pairs_and_zero_for_an_unchanged_model(pair):
    base, adapted = pair
    expected = mean(1 - cosine(x, y) for x, y in zip(base, adapted, strict=True))
    assert drift(base, adapted) == pytest.approx(expected, abs=1e-12)
    assert drift(base, base) == pytest.approx(0, abs=1e-12)


@UNHURRIED
@given(sets, sets)
def test_memorisation_names_the_nearest_photo(gen, ref):
    values, indices = memorisation(gen, ref)
    for row, value, index in zip(gen, values.tolist(), indices.tolist(), strict=True):
        assert value == pytest.approx(max(cosine(row, photo) for photo in ref), abs=1e-12)
        assert value == pytest.approx(cosine(row, ref[index]), abs=1e-12)


@UNHURRIED
@given(larger_sets, larger_sets, st.randoms(use_true_random=False))
def test_the_order_of_images_and_photos_does_not_matter(gen, ref, random):
    shuffled = [x[random.sample(range(len(x)), len(x))] for x in (gen, ref)]
    assert dino_score(*shuffled) == pytest.approx(dino_score(gen, ref), abs=1e-12)
    assert diversity(shuffled[0]) == pytest.approx(diversity(gen), abs=1e-12)
    assert real_vs_real(shuffled[1]) == pytest.approx(real_vs_real(ref), abs=1e-12)


@UNHURRIED
@given(equal_sets, st.floats(1e-3, 1e3))
def test_the_length_of_embeddings_does_not_matter(pair, scale):
    gen, ref = pair
    for score in (dino_score, clip_t, drift):
        assert score(gen * scale, ref) == pytest.approx(score(gen, ref), abs=1e-9)


def test_rows_of_very_different_lengths_count_alike():
    gen, ref = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lengths = torch.tensor([[1e-200], [1.0], [1e200]], dtype=torch.float64)
    for score in (dino_score, clip_t, drift):
        assert score(gen * lengths, ref) == pytest.approx(score(gen, ref), abs=1e-12)


def test_a_photo_among_the_outputs_is_the_nearest_to_itself():
    ref = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    values, indices = memorisation(ref[[2, 0]], ref)
    assert values.tolist() == pytest.approx([1, 1])
    assert indices.tolist() == [2, 0]


@pytest.mark.parametrize(
    ("score", "arguments", "message"),
    [
        (dino_score, (torch.empty(0, 3), torch.ones(2, 3)), "at least 1"),
        (dino_score, (torch.ones(3), torch.ones(2, 3)), r"\[N, D\]"),
        (dino_score, (torch.ones(2, 4), torch.ones(2, 3)), "different encoders"),
        (clip_t, (torch.ones(2, 3), torch.ones(3, 3)), "equal shapes"),
        (drift, (torch.ones(2, 3), torch.ones(1, 3)), "equal shapes"),
        (real_vs_real, (torch.ones(1, 3),), "at least 2"),
        (diversity, (torch.ones(1, 3),), "at least 2"),
        (dino_score, (torch.zeros(1, 3), torch.ones(1, 3)), "zeros"),
        (dino_score, (torch.full((1, 3), float("nan")), torch.ones(1, 3)), "not finite"),
    ],
)
def test_what_has_no_score_is_refused(score, arguments, message):
    with pytest.raises(ValueError, match=message):
        score(*arguments)
