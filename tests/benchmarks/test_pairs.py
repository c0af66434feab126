"""The command around the benchmarks that time two things in turns."""

import json
import sys

from benchmarks import pairs


def test_the_output_folder_is_made_before_anything_is_measured(tmp_path, monkeypatch):
    output = tmp_path / "new" / "step.json"

    def measure(method, pairs, rank, batch):
        assert output.parent.is_dir()
        return {"interval_95": [1.0, 2.0], "median_seconds": {method: 0.5}}

    monkeypatch.setattr(sys, "argv", ["bench", "--output", str(output)])
    result = pairs.run("What it measures.", measure, str, pairs=30, methods=["singlora"])
    assert result == json.loads(output.read_text())
