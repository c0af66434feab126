"""What a request for pictures may not say, told before a base is loaded."""

import pytest

from symdream.errors import Problems
from symdream_apps.generation import PictureRequest, check


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(Problems) as caught:
        check(PictureRequest("a {sbject}", negative_prompt="a {blurr}", count=0, seed=-1))
    told = {problem.key: problem.message for problem in caught.value.problems}
    assert told.keys() == {"prompt", "negative prompt", "count 0", "seed -1"}
    assert told["prompt"] == "{sbject} stands for nothing; did you mean {subject}?"


@pytest.mark.parametrize("prompt", ["a {subject}", "a {red|blue} bird", "a {"])
def test_other_braces_are_text(prompt):
    check(PictureRequest(prompt, negative_prompt=prompt))
