from __future__ import annotations

import pickle
import shlex

import pytest

from symdream.diffusion.folders import MissingPart
from symdream.errors import Problem, Problems, RequestError, Stopped, WorkError, typed


@pytest.mark.parametrize("path", ["runs/owl", "my runs/owl é", "it's"])
def test_a_path_in_a_message_can_be_pasted_into_a_shell(path):
    assert shlex.split(f"symdream train --resume {typed(path)}")[-1] == path


def test_an_error_tells_what_where_and_what_to_do():
    error = WorkError("It broke.", where="here", fix="mend it")
    assert str(error).splitlines() == ["It broke.", "  where: here", "  fix:   mend it"]
    assert (error.exit_code, RequestError("x").exit_code) == (1, 2)


def test_problems_are_told_together_and_counted():
    told = str(Problems("x.toml", [Problem("rank = 0", "is too small"), Problem("lr", "is missing")]))
    assert told.splitlines() == [
        "2 problems in x.toml; nothing was started.",
        "  rank = 0  is too small",
        "  lr        is missing",
    ]
    assert str(Problems("x", [Problem("a", "b")])).startswith("1 problem in x;")


@pytest.mark.parametrize(
    "error",
    [
        *(kind("It broke.", where="here", fix="mend it") for kind in (RequestError, WorkError, Stopped, MissingPart)),
        WorkError("It broke."),
        Problems("x.toml", [Problem("rank = 0", "is too small"), Problem("lr", "is missing")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_out_of_another_process_as_it_went_in(error):
    other = pickle.loads(pickle.dumps(error))
    assert type(other) is type(error) and str(other) == str(error)
    assert vars(other) == vars(error) and other.args == error.args and other.exit_code == error.exit_code
