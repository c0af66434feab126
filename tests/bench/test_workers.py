"""Real worker processes, without a base: what goes wrong in them is told by the parent."""

import pytest

from symdream.bench.grid import build
from symdream.bench.lock import locked
from symdream.bench.runner import Comparison
from symdream.bench.workers import Workers
from symdream.errors import RequestError, WorkError


@pytest.fixture(scope="module")
def grid():
    return build({"tune": False, "methods": ["lora"], "subjects": ["owl"]})


def test_an_error_of_a_task_comes_whole_from_its_worker(grid, tmp_path):
    grid = grid.model_copy(update={"base": "/no/such"})
    with locked(tmp_path) as lock, Workers(1, grid, tmp_path, lock) as workers:
        results = [result for _, result, _ in workers.do([("draw", (["an owl"], [0]), {})] * 2)]
    assert all(type(result) is RequestError and "/no/such" in result.what for result in results)


def test_what_went_wrong_with_references_is_told_on_one_line(grid, tmp_path):
    comparison = Comparison(grid, tmp_path)
    error = RequestError("No encoder /no/such.", where="there", fix="name another")
    comparison.do = lambda tasks: iter([(0, error, 0.0)])
    with pytest.raises(WorkError) as caught:
        comparison._take_references()
    assert caught.value.what == "The references of owl failed: No encoder /no/such. (name another)."
