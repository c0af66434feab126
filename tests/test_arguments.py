from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
import tyro

from symdream.arguments import optional_arguments


@dataclass
class Args:
    rank: int | None = None
    lr: float | None = 0.5
    base: str | None = None
    run: Path | None = None
    method: Literal["lora", "lora+", "dora"] | None = None
    seeds: list[int] | None = None


def parse(*argv: str) -> Args:
    with optional_arguments():
        return tyro.cli(Args, args=list(argv), prog="x")


def test_what_is_not_given_keeps_its_default_and_what_is_given_has_its_type():
    assert parse() == Args()
    words = ["--rank", "8", "--lr=-1e-3", "--base", "None", "--run", "a b", "--method", "lora+", "--seeds", "1", "2"]
    given = parse(*words)
    assert given == Args(8, -1e-3, "None", Path("a b"), "lora+", [1, 2])


def test_the_help_names_kinds_and_choices_in_their_order(capsys):
    with pytest.raises(SystemExit):
        parse("--help")
    said = capsys.readouterr().out
    for part in ("--rank INT", "--lr FLOAT", "--base STR", "--run PATH", "--method {lora,lora+,dora}"):
        assert part in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--rank", "x"], "x is not a whole number"),
        (["--lr", "much"], "much is not a number"),
        (["--method", "svd"], "lora+"),
    ],
)
def test_what_cannot_be_read_ends_with_2_and_a_sentence(argv, message, capsys):
    with pytest.raises(SystemExit) as end:
        parse(*argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
