"""A scored subject's folder: whole, or as it was before."""

import pytest
from helpers.disk import file_size_limit
from helpers.encoder_folders import picture

from symdream.errors import WorkError
from symdream.metrics.run_scores import Scored

SAMPLING = {"sampler": "ddim", "steps": 2, "guidance": 4.0, "width": 128, "height": 128}


@pytest.mark.parametrize("there", [False, True])
def test_scores_on_a_full_disk_leave_what_was_there_and_nothing_else(there, tmp_path):
    result = {"seeds": [0], "base": {"identity": "sprite"}, "sampling": SAMPLING, "weight": 1.0}
    scored = Scored(result, [picture(0)], [picture(1)], ["a sks bird"], [0], [], [], [])
    output, before = tmp_path / "evaluation", []
    if there:
        scored.write(output, "owl")
        before = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*"))
        assert before == [
            *("evaluation", "evaluation/after", "evaluation/after/00-0.png"),
            *("evaluation/before", "evaluation/before/00-0.png", "evaluation/grid.png", "evaluation/scores.json"),
        ]
    with file_size_limit(1000), pytest.raises(WorkError, match="Could not write .*/evaluation: File too large"):
        scored.write(output, "owl")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == before
