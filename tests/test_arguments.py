from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
import tyro

from symdream.arguments import merge_repeated, optional_arguments
from symdream.errors import Problems


@dataclass
class Args:
    rank: int | None = None
    lr: float | None = 0.5
    base: str | None = None
    run: Path | None = None
    method: Literal["lora", "lora+", "dora"] | None = None
    seeds: list[int] | None = None
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    image_seeds: list[float] = field(default_factory=list)
    overwrite: bool = False
    paths: tyro.conf.Positional[list[str]] = field(default_factory=list)


def parse(*argv: str) -> Args:
    with optional_arguments():
        return tyro.cli(Args, args=merge_repeated(Args, list(argv)), prog="x")


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


@pytest.mark.parametrize(
    ("repeated", "once"),
    [
        ("--seeds 1 --seeds 2 3", "--seeds 1 2 3"),
        ("--seeds=1 --rank 8 --seeds=2", "--rank 8 --seeds 1 2"),
        ("--image-seeds=-1 --image_seeds 2 -inf", "--image-seeds -1 2 -inf"),
        ("a --seeds 1 --overwrite --seeds 2 -o x", "a --overwrite --seeds 1 2 -o x"),
        ("--seeds 1 --seeds 2 -- b --seeds", "--seeds 1 2 -- b --seeds"),
        ("--seeds 1 --seeds", "--seeds 1"),
        ("--rank 1 --rank 2", "--rank 2"),
        ("--rank=1 --lr -1 --rank=01 --lr=-2", "--rank 1 --lr -2"),
        ("-o a --output b", "-o b"),
        ("--overwrite --overwrite", "--overwrite"),
    ],
)
def test_a_list_flag_given_twice_appends_and_of_any_other_the_last_counts(repeated, once):
    assert parse(*repeated.split()) == parse(*once.split())


def test_a_first_word_that_is_tied_to_its_list_flag_may_begin_with_a_dash():
    @dataclass
    class Prompts:
        prompt: list[str]

    words = merge_repeated(Prompts, ["--prompt=--sks owl", "--prompt", "a b"])
    assert tyro.cli(Prompts, args=words).prompt == ["--sks owl", "a b"]


def test_a_list_given_twice_takes_no_positional_argument_with_it():
    with pytest.raises(Problems, match="--seeds  is given twice, the first time perhaps with another argument"):
        parse("--seeds", "1", "a", "--overwrite", "--seeds", "2")

    @dataclass
    class Flags:
        seeds: list[int]

    words = merge_repeated(Flags, ["--seeds", "1", "2", "--seeds", "3"])  # where all words are the list's
    assert tyro.cli(Flags, args=words).seeds == [1, 2, 3]


@pytest.mark.parametrize("first", ["--prompt=A", "--prompt=-A"])
def test_a_dash_in_a_later_word_of_a_list_is_refused(first):
    @dataclass
    class Prompts:
        prompt: list[str]

    with pytest.raises(Problems, match="--prompt=-B  begins with a dash"):
        merge_repeated(Prompts, [first, "--prompt=-B"])


def test_lists_given_twice_reach_the_commands():
    from symdream.commands import compare, train

    assert compare.parse(["--methods", "lora", "--seeds", "0", "1", "--methods", "dora"]).methods == ["lora", "dora"]
    words = ["--sample-prompts", "a b", "--images", "x", "--sample-prompts", "c"]
    assert train.parse(words).given["sample_prompts"] == ["a b", "c"]
