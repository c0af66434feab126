import json

import pytest
from helpers.disk import file_size_limit

from symdream.errors import WorkError
from symdream.training.metrics_file import MetricsFile


def test_metrics_after_the_checkpoint_and_cut_lines_are_dropped(tmp_path):
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        lines.record(step=step, loss=0.5)
    lines.flush()
    with lines.path.open("a") as file:
        file.write('{"step": 6, "lo')
    lines.truncate(3)
    assert [json.loads(line)["step"] for line in lines.path.read_text().splitlines()] == [1, 2, 3]


def test_metrics_reach_the_disk_whole_or_not_at_all(tmp_path):
    lines = MetricsFile(tmp_path / "metrics.jsonl")
    lines.record(step=1, loss=0.5)
    lines.flush()
    for step in range(2, 20):
        lines.record(step=step, loss=0.5)
    with file_size_limit(200), pytest.raises(WorkError, match=r"metrics\.jsonl: File too large"):
        lines.flush()
    assert len(lines.path.read_text().splitlines()) == 1
    lines.flush()
    assert [json.loads(line)["step"] for line in lines.path.read_text().splitlines()] == list(range(1, 20))
