from __future__ import annotations

import shlex

import pytest

from symdream.errors import Problem, Problems, RequestError, WorkError, typed


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
        "2 problems in x.toml; nothing was started.", "  rank = 0  is too small", "  lr        is missing"
    ]  # fmt: skip
    assert str(Problems("x", [Problem("a", "b")])).startswith("1 problem in x;")
