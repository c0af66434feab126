"""What a grid accepts, what it refuses, and which cells and arms follow from it."""

import re

import pytest
from helpers.grids import make_subjects, tiny_grid
from hypothesis import given
from hypothesis import strategies as st

from symdream import settings
from symdream.bench.arms import make_arms, matched_rank
from symdream.bench.cells import grid_cells, of_shard
from symdream.bench.comparisons import EQUAL_PARAMETERS
from symdream.bench.grid import Grid, build, compared_subjects, subjects_of, to_toml
from symdream.bench.tuning import defaults
from symdream.cli import main
from symdream.diffusion.base import load_base
from symdream.errors import Problems, RequestError
from symdream.training.request import check_base
from symdream.tuners import count_parameters


def test_all_problems_are_told_at_once_with_what_was_meant():
    with pytest.raises(Problems) as caught:
        build({"methods": ["loar"], "subjects": ["foxx"], "image_seed": [1], "tuning_limit": 1}, "sprite")
    told = str(caught.value)
    for part in ('did you mean "lora"', 'did you mean "fox"', 'did you mean "image_seeds"', "tuning_limit"):
        assert part in told


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ({"train": {"lr": 1e-3}}, "decided by the grid"),
        ({"train": {"target": "qk"}}, 'did you mean "targets"'),
        ({"subjects": ["owl"]}, "tuned on"),
        ({"ranks": [8, 8]}, "twice"),
        ({"layout": "dreambooth"}, "--data"),
        ({"data": "/nowhere"}, "No folder"),
        ({"base": "spirte"}, "base"),
    ],
)
def test_a_wrong_request_is_refused_in_a_sentence(flags, part):
    with pytest.raises(Problems, match="nothing was started") as caught:
        build(flags, "sprite")
    assert part in str(caught.value)


def marked(folder, **held_out):
    """`make_subjects`, but all prompts of those that are named are held out, or none is."""
    make_subjects(folder)
    for name, value in held_out.items():
        file = folder / name / "prompts.toml"
        text = re.sub(r"held_out = \w+", f"held_out = {str(value).lower()}", file.read_text())
        file.write_text(re.sub(r"ideal = .*\n", "", text))
    return folder


def test_subjects_that_would_be_reported_on_prompts_to_choose_by_are_refused_all_at_once(tmp_path, capsys):
    data = marked(tmp_path / "data", alpha=False, beta=False)
    assert main(["compare", "--preset", "sprite", "--data", str(data), "--dry-run"]) == 2
    told = capsys.readouterr()
    for name in ("alpha", "beta"):
        assert f"subjects = {name}" in told.err and str(data / name / "prompts.toml") in told.err
    assert "subjects = gamma" not in told.err and not told.out
    assert build({"data": data, "tune": False}, "sprite").data == data  # nothing is chosen by any prompt


def test_a_base_that_is_none_is_told_as_training_tells_it():
    with pytest.raises(Problems) as compared:
        build({"base": "sprit"}, "sprite")
    with pytest.raises(Problems) as trained:
        settings.build({"model": {"base": "sprit"}}, checks=[check_base])
    (one,), (other,) = compared.value.problems, trained.value.problems
    assert f"model.{one.key}" == other.key and one.message == other.message
    assert 'No base is called "sprit"; did you mean "sprite"? (use sprite, ' in one.message


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(RequestError, match="smoke"):
        build({}, "smok")


def test_grid_toml_is_complete(tmp_path):
    grid = build({"steps": 7, "train": {"targets": "qk"}}, "sprite")
    (tmp_path / "grid.toml").write_text(to_toml(grid))
    assert build({}, None, tmp_path / "grid.toml") == grid


def test_flags_win_over_the_file_and_the_file_over_the_preset(tmp_path):
    (tmp_path / "grid.toml").write_text("steps = 50\nbatch_size = 3\n")
    grid = build({"steps": 60}, "sprite", tmp_path / "grid.toml")
    assert (grid.steps, grid.batch_size, grid.ranks) == (60, 3, [8])


@given(st.integers(1, 500), st.integers(1, 9))
def test_scored_steps_are_ascending_checkpoints_and_end_with_the_last(steps, points):
    scored = Grid(steps=steps, points=points).scored_steps
    assert scored == sorted(set(scored)) and scored[-1] == steps and len(scored) == min(points, steps)
    assert all(step % scored[0] == 0 for step in scored[:-1])


def test_the_sprite_preset_is_the_grid_that_was_planned():
    grid = build({}, "sprite")
    subjects = subjects_of(grid)
    names = compared_subjects(grid, subjects)
    assert len(names) == 14 and {"owl", "cupcake"}.isdisjoint(names)
    base = load_base("sprite")
    arms = make_arms(grid, base)
    assert [arm.id for arm in arms] == [
        "lora-r8", "loraplus-r8", "dora-r8", "singlora-r8", "symlora-r8", "singlora-r16", "symlora-r16",
    ]  # fmt: skip
    assert [arm.role for arm in arms].count(EQUAL_PARAMETERS) == 2
    settings = {arm.id: defaults(arm, embedded=True) for arm in arms}
    cells = grid_cells(grid, arms, names, subjects, settings, "protocol")
    assert len(cells) == 196 == len({cell.id for cell in cells}) == len({cell.key for cell in cells})
    assert {cell.images() for cell in cells} == {26}
    for shards in (3, 7, 30):
        parts = [of_shard(cells, (shard, shards)) for shard in range(shards)]
        assert sorted(cell.id for part in parts for cell in part) == sorted(cell.id for cell in cells)
        for part in parts:
            # Every arm of a subject and seed in one part: no machine is one method's alone.
            assert {arm.id for arm in arms} == {cell.arm for cell in part} or not part
            assert len(part) == 7 * len({(cell.subject, cell.seed) for cell in part})
    # Whole subjects first: the first seven cells compare all arms on one subject.
    assert {cell.subject for cell in cells[:7]} == {names[0]} and {cell.arm for cell in cells[:7]} == set(settings)


@given(st.integers(1, 16), st.lists(st.tuples(st.integers(64, 512), st.integers(64, 512)), min_size=1, max_size=6))
def test_no_other_rank_of_the_steps_is_nearer_to_lora(rank, shapes):
    found = matched_rank("singlora", rank, shapes, 64)
    wanted = count_parameters("lora", shapes, rank)
    step = 1 if rank % 2 else rank // 2
    distance = abs(count_parameters("singlora", shapes, found) - wanted)
    assert all(distance <= abs(count_parameters("singlora", shapes, r) - wanted) for r in range(step, 65, step))
    if all(n_in == n_out for n_in, n_out in shapes):
        assert found == 2 * rank  # on square layers exactly


def test_a_rank_larger_than_a_layer_is_refused(tiny_sd1, tmp_path):
    grid = build(tiny_grid(tiny_sd1, make_subjects(tmp_path), ranks=[4096]))
    with pytest.raises(Problems, match="4096"):
        make_arms(grid, load_base(str(tiny_sd1)))
