"""Variance components on data made of known ones, and against the sums of squares they come from."""

import numpy as np
import pytest

from symdream.bench.variance import COMPONENTS, components, cube

TRUE = {"subject": 0.04, "training_seed": 0.01, "prompt": 0.09, "image_seed": 0.0025, "residual": 0.0225}


def draw(random, shape):
    s, t, p, i = shape
    parts = {"subject": (s, 1, 1, 1), "training_seed": (s, t, 1, 1), "prompt": (s, 1, p, 1),
             "image_seed": (s, 1, 1, i), "residual": shape}  # fmt: skip
    return 0.3 + sum(random.normal(0, TRUE[name] ** 0.5, size) for name, size in parts.items())


def test_the_estimates_are_unbiased_in_the_design_used():
    """14 subjects, 2 training seeds, 4 prompts, 2 image seeds, 1,000 times: every mean within 4 standard errors."""
    random = np.random.default_rng(0)
    found = [components(draw(random, (14, 2, 4, 2))) for _ in range(1_000)]
    for name in COMPONENTS:
        values = np.array([one[name] for one in found])
        assert abs(values.mean() - TRUE[name]) < 4 * values.std() / len(values) ** 0.5, name


def test_a_large_design_finds_each_component():
    found = components(draw(np.random.default_rng(1), (400, 6, 6, 6)))
    assert found == pytest.approx(TRUE, rel=0.15)


def test_data_without_noise_has_its_components_alone():
    steps = np.array([-1.0, 1.0])
    values = np.zeros((3, 2, 2, 2)) + steps[None, :, None, None]
    found = components(values)
    assert found["training_seed"] == pytest.approx(2.0)
    assert found["residual"] == pytest.approx(0, abs=1e-12) and found["prompt"] == pytest.approx(0, abs=1e-12)
    # Unbiased: the training seeds' share of the subjects' means is taken off, although they do not differ here.
    assert found["subject"] == pytest.approx(-1.0)


def test_a_single_level_cannot_be_told_from_the_subject():
    found = components(np.random.default_rng(0).normal(size=(5, 2, 3, 1)))
    assert found["image_seed"] is None and found["prompt"] is not None
    assert components(np.ones((1, 2, 2, 2)))["subject"] is None
    alone = components(np.random.default_rng(0).normal(size=(5, 1, 1, 1)))
    assert alone["residual"] is None and alone["subject"] > 0


def rows(subjects, leave_out=()):
    return [
        {"subject": s, "training_seed": t, "prompt": f"{s} {p}", "image_seed": i, "dino": 100 * t + 10 * p + i}
        for s in subjects for t in (0, 1) for p in (0, 1, 2) for i in (0, 1) if (s, t) not in leave_out
    ]  # fmt: skip


def test_only_whole_subjects_are_taken():
    names, values = cube(rows(["fox", "lion"], leave_out={("lion", 1)}), "dino")
    assert names == ["fox"] and values.shape == (1, 2, 3, 2)
    assert values[0, 1, 2, 1] == 121 and values[0, 0, 1, 0] == 10
    assert cube([], "dino") is None


def test_a_subject_with_a_picture_without_score_is_left_out_alone():
    lines = rows(["fox", "lion"])
    lines[0]["dino"] = None
    names, values = cube(lines, "dino")
    assert names == ["lion"] and values.shape == (1, 2, 3, 2)
