"""What of the library's messages a page says in its own words, and what it leaves to be typed."""

from pathlib import Path

import pytest

from symdream.errors import Problem, Problems, RequestError
from symdream_apps.wording import brief, labelled, message, without_flags, without_place


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("take a lower --lr", "take a lower learning rate"),
        ("take --batch-size 2 (or --rank 4)", "take batch size 2 (or rank 4)"),
        ("use --to diffusers, or --to merged", "use the format diffusers, or the format merged"),
        ("move it to '/r/--cool', a--b or .--c", "move it to '/r/--cool', a--b or .--c"),
        ("finish it: symdream train --resume owl", "finish it: symdream train --resume owl"),
        (
            "train with --rank 8, or compress it: symdream export FILE --compress 4\ntake --rank 2",
            "train with rank 8, or compress it: symdream export FILE --compress 4\ntake rank 2",
        ),
        (
            "continue with: accelerate launch --cpu --num_processes 2 symdream/train.py --resume owl",
            "continue with: accelerate launch --cpu --num_processes 2 symdream/train.py --resume owl",
        ),
        ('pip install "symdream[wandb]", or leave --wandb out', 'pip install "symdream[wandb]", or leave --wandb out'),
    ],
)
def test_flags_become_words_and_commands_stay_as_they_are_typed(text, told):
    assert without_flags(text) == told


def test_only_what_to_do_is_put_in_other_words():
    assert message("No --lr.\n  fix:   take --lr 1") == "No --lr.\n  fix:   take learning rate 1"


def test_in_brief_an_error_is_one_line_that_tells_what_to_do_and_no_place():
    error = RequestError("No adapter\n in /home/me/runs/owl.", fix="take --base sprite, or see /home/me/runs/fox")
    assert brief(error, Path("/home/me/runs")) == "No adapter in owl. (take the base sprite, or see fox)"


def test_a_forms_problems_are_told_by_what_stands_beside_its_boxes():
    problems = [
        Problem("adapter.rank = -3", "is too small"), Problem("noun", "is needed"), Problem("data.cache_dir", "is"),
        Problem("output.sample_prompts = a = b", "is no prompt"), Problem("other.rank = 1", "is unknown"),
    ]  # fmt: skip
    labels = {"adapter.rank": "Rank", "noun": "Class noun", "output.sample_prompts": "Prompts"}
    told = labelled(Problems("the request", problems), labels)
    keys = ["Rank = -3", "Class noun", "data.cache_dir", "Prompts = a = b", "other.rank = 1"]
    assert [problem.key for problem in told.problems] == keys
    assert [problem.message for problem in told.problems] == [problem.message for problem in problems]
    assert str(told).startswith("5 problems in the form; nothing was started.\n  Rank = -3 ")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/data/owl is locked: touch '/data/owl/stop'", "owl is locked: touch 'owl/stop'"),
        ("where: /mnt/data/sd15, ./data/x, ~/data/y", "where: /mnt/data/sd15, ./data/x, ~/data/y"),
        ("see https://example.org/data/y and file:/data/x", "see https://example.org/data/y and file:x"),
        ("/datasets/x, 3/data/4", "/datasets/x, 3/data/4"),
    ],
)
def test_only_what_lies_in_the_folder_is_shortened(text, told):
    assert without_place(text, Path("/data")) == told


def test_a_folder_at_the_root_hides_nothing():
    assert without_place("see https://example.org, /etc/x", Path("/")) == "see https://example.org, /etc/x"
