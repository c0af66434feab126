"""The GPU benchmarks run here on the embedded base, as a check of their code and of what they write."""

import json
import math
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.tiny_bases import tiny_base

from benchmarks import ours, rows, run_gpu, step_gpu, time_to_adapter
from benchmarks.rows import Row, Setting, run_rows, spread, table
from benchmarks.run_gpu import chosen, in_order_of_worth
from benchmarks.step_gpu import KERNELS
from symdream.diffusion import graph_engine

ROOT = Path(__file__).parents[2]
HERE = Setting(torch.device("cpu"), torch.float32, "sprite", True)
GPU = Setting(torch.device("cuda"), torch.bfloat16, "sd15", False)
NOT_NEEDED = ("pydantic", "tyro", "rich", "tomli_w", "psutil", "gradio", "scipy", "matplotlib")


def measured(milliseconds):
    return {
        "times": {"ours": {**spread(milliseconds), "images_per_second": 1.0, "setup_seconds": 0.0, "peak_bytes": None}},
        "ratios": {"theirs / ours": 2.0},
        "facts": {"goal": "3"},
    }


def test_a_row_that_does_not_fit_or_fails_costs_no_other_row(tmp_path):
    def fails():
        raise RuntimeError("out of memory")

    plan = [
        Row("step", "first", 1, lambda: measured([1.0, 2.0, 9.0])),
        Row("step", "too long", 1e6, lambda: pytest.fail("was started")),
        Row("step", "broken", 1, fails),
        Row("step", "last", 1, lambda: measured([4.0])),
    ]
    run_rows(plan, replace(HERE, deadline=time.perf_counter() + 100), tmp_path / "all.json")
    first, skipped, failed, last = json.loads((tmp_path / "all.json").read_text())["rows"]
    assert first["times"]["ours"]["median_ms"] == 2.0 and first["times"]["ours"]["quartiles_ms"] == [1.5, 5.5]
    assert " s are left" in skipped["skipped"] and failed["failed"] == "RuntimeError: out of memory"
    assert last["times"]["ours"]["all_ms"] == [4.0]
    lines = (tmp_path / "all.md").read_text().splitlines()
    assert "| step | first | ours | 2.0 | 1.5 to 5.5 | 1.00 |  | 0.0 |" in lines
    assert "- step last: theirs / ours = 2.00" in lines


def test_what_was_measured_is_on_the_disk_before_the_first_row_and_after_every_row(tmp_path):
    output, seen = tmp_path / "new" / "folder" / "all.json", []

    def look():
        seen.append(len(json.loads(output.read_text())["rows"]))
        assert output.with_suffix(".md").read_text().startswith("# Measured")
        return measured([1.0])

    run_rows([Row("step", str(i), 0, look) for i in range(3)], HERE, output)
    assert seen == [0, 1, 2]


@pytest.mark.parametrize(("budget", "written"), [(100.0, 100.0), (math.inf, None)])
def test_a_report_is_json_with_and_without_a_budget(tmp_path, budget, written):
    setting = replace(HERE, deadline=time.perf_counter() + budget)
    run_rows([Row("step", "first", 0, lambda: measured([1.0]))], setting, tmp_path / "all.json")
    report = read_json(tmp_path / "all.json")
    assert report["budget_seconds"] == (written and pytest.approx(written, abs=10)) and len(report["rows"]) == 1


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "speed-h100").glob("*.json")), ids=lambda path: path.name)
def test_the_docs_figures_are_json(path):
    assert read_json(path)["rows"]


def read_json(path):
    """Strictly: NaN and Infinity, which Python alone writes and reads, are none."""
    return json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in {path}"))


@pytest.mark.parametrize("name", ["file/all.json", "folder"])
def test_what_cannot_be_written_is_said_before_anything_is_measured(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    plan = [Row("step", "first", 0, lambda: pytest.fail("was started"))]
    with pytest.raises(SystemExit, match=rf"{name} cannot be written \(.+\); nothing was measured"):
        run_rows(plan, HERE, tmp_path / name)


def test_an_earlier_report_stays_until_there_is_a_newer_figure(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    output = tmp_path / "all.json"
    output.write_text("{}")
    with pytest.raises(KeyboardInterrupt):
        run_rows([Row("step", "first", 0, interrupted)], HERE, output)
    assert output.read_text() == "{}"


def test_contestants_take_turns():
    order = []
    contestants = [rows.Contestant(name, lambda name=name: order.append(name), 2) for name in "abc"]
    times = rows.alternate(contestants, HERE)
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert times["a"]["images_per_second"] == pytest.approx(2000 / times["a"]["median_ms"])


def test_after_the_deadline_no_round_and_no_contestant_is_begun(tmp_path):
    over = replace(HERE, deadline=time.perf_counter() - 1)
    order = []
    late = [rows.Contestant(name, lambda name=name: order.append(name), 1) for name in "ab"]
    assert [len(t["all_ms"]) for t in rows.alternate(late, over).values()] == [1, 1] and order == ["a", "b"]
    plan = [Row("step", "late", 0, lambda: rows.enter("ours", lambda: pytest.fail("was built"), 1, over, 0))]
    [row] = run_rows(plan, HERE, tmp_path / "all.json")["rows"]
    assert row["skipped"] == "the budget was over before ours was built"


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(step_gpu, "base_of", lambda *_: tiny_base("sd1"))


def unrecordable(*_):
    raise RuntimeError("operation not permitted when stream is capturing")


def step_row(*names):
    return Row("step_gpu", "tiny", 0, lambda: step_gpu.compare(HERE, 1, names))


def test_a_step_that_cannot_be_recorded_fails_its_row_and_not_the_next(tiny, monkeypatch):
    monkeypatch.setattr(graph_engine, "Captured", unrecordable)
    graph, eager = run_rows([step_row("singlora, graph"), step_row("singlora, eager")], HERE, None)["rows"]
    assert graph["failed"].startswith("RuntimeError: a graph was to be measured; engine: eager, since")
    assert "not permitted when stream is capturing" in graph["failed"] and "times" not in graph
    assert set(eager["times"]) == {"singlora, eager"}


def test_a_graph_that_the_engine_refuses_fails_too_and_auto_may_be_eager(monkeypatch):
    monkeypatch.setattr("symdream.diffusion.engine.not_capturable", lambda parts: "fp16 scales its loss")
    with pytest.raises(RuntimeError, match="a graph was to be measured; engine: eager, since fp16 scales its loss"):
        ours.OurStep(tiny_base("sd1"), "singlora", 1, engine="graph").step()
    assert ours.OurStep(tiny_base("sd1"), "singlora", 1, engine="auto").step().isfinite()


def test_where_our_kernels_cannot_be_used_no_contestant_is_called_after_them(tiny):
    report = run_rows([step_row("floor, graph", "singlora, graph", *KERNELS)], HERE, None)
    [row] = report["rows"]
    assert set(row["times"]) == {"floor, graph", "singlora, graph"}
    assert not any("kernels" in name for name in row["ratios"])
    assert report["machine"]["kernels"] == "PyTorch's, since there is no CUDA device"
    said = "not measured: the kernels are PyTorch's, since there is no CUDA device"
    assert {name: row["facts"][name] for name in KERNELS} == dict.fromkeys(KERNELS, said)
    assert row["facts"]["graph"] == "nothing is recorded on a CPU: the same code runs op by op"


def test_where_our_kernels_work_they_are_compared_with_pytorchs(tiny, monkeypatch):
    monkeypatch.setattr(rows, "why_not", lambda device: None)
    report = run_rows([step_row("floor, graph", "singlora, graph", *KERNELS)], HERE, None)
    [row] = report["rows"]
    assert report["machine"]["kernels"] == "ours" and not set(KERNELS) & set(row["facts"])
    assert set(row["times"]) == {"floor, graph", "singlora, graph", *KERNELS}
    assert f"floor, graph / {KERNELS[0]}" in row["ratios"] and f"{KERNELS[1]} / singlora, graph" in row["ratios"]


def test_on_a_gpu_every_shape_and_batch_of_the_goals_has_a_row():
    names = [row.title for row in in_order_of_worth(GPU)]
    assert len(set(names)) == len(names)
    for start in ("step_gpu sd15 batch 1", "step_gpu sd15 batch 4", "step_gpu sd15 batch 8", "sampling sd15 batch 1"):
        assert any(name.startswith(start) for name in names), start
    for start in ("batched sd15", "memory sd15", "memory sdxl", "time_to_adapter sd15", "step_gpu sdxl"):
        assert any(name.startswith(start) for name in names), start
    assert "skipped" not in table({"machine": {}, "seconds": 0, "rows": []})


def test_every_text_of_only_must_be_in_a_title(monkeypatch, capsys):
    rows_there = in_order_of_worth(GPU)
    assert [row.title for row in chosen(rows_there, ["batched", "memory"])] == [
        "batched sd15, UNet", "memory sd15", "memory sdxl"
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["run_gpu.py", "--budget", "1", "--only", "batched", "batch 3", "sd16"])
    monkeypatch.setattr(run_gpu, "run_rows", lambda *_: pytest.fail("was started"))
    with pytest.raises(SystemExit, match="2"):
        run_gpu.main()
    said = capsys.readouterr().err
    assert "--only: no row has 'batch 3' or 'sd16' in its title; there are: step_gpu sprite batch 1" in said


def test_the_command_of_the_docs_measures_their_table():
    page = (ROOT / "docs" / "speed.md").read_text(encoding="utf-8").replace("\\\n", " ")
    [words] = [shlex.split(line) for line in re.findall("^    .*run_gpu.py.*", page, re.MULTILINE) if "--only" in line]
    setting = replace(GPU, rounds=int(words[words.index("--rounds") + 1]))
    wanted = chosen(in_order_of_worth(setting), words[words.index("--only") + 1 :])
    everything = f"step_gpu sd15 batch 1, {len(step_gpu.EVERYTHING)} contestants"
    headline = f"step_gpu sd15 batch 4, {len(step_gpu.HEADLINE + KERNELS)} contestants"
    assert [row.title for row in wanted] == [headline, "sampling sd15 batch 1", "batched sd15, UNet", everything]
    assert sum(row.seconds for row in wanted) <= float(words[words.index("--budget") + 1])


@pytest.mark.slow
def test_it_runs_with_torch_and_the_four_libraries_alone(tmp_path):
    """Not to find the others is what a bare machine does; sitecustomize makes this one so, its children too."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.machinery as machinery\n"
        "find = machinery.PathFinder.find_spec\n"
        f"missing = {NOT_NEEDED!r}\n"
        "def find_spec(name, path=None, target=None):\n"
        "    return None if name.split('.')[0] in missing else find(name, path, target)\n"
        "machinery.PathFinder.find_spec = staticmethod(find_spec)\n"
    )
    output = tmp_path / "check.json"
    command = [sys.executable, "benchmarks/run_gpu.py", "--budget", "3600", "--output", output]
    env = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads(output.read_text())["rows"]
    assert {row["bench"] for row in found} == {"step_gpu", "sampling", "batched", "memory", "time_to_adapter"}
    assert not any("failed" in row or "skipped" in row for row in found)
    by_name = {row["bench"]: row for row in found}
    step, sampling = by_name["step_gpu"], by_name["sampling"]
    assert set(found[0]["times"]) == {"floor, graph", "script, LoRA", "lora, graph", "singlora, graph"}
    assert {"floor, eager", "script, DoRA", "symlora, graph", "singlora, eager"} == set(step["times"])
    assert all(step["facts"][name].startswith("not measured") for name in KERNELS)
    assert sampling["facts"]["ours: levels of 255 apart"].startswith("0 at most")
    assert by_name["memory"]["facts"]["ours"].endswith("GiB")
    assert "not installed" in by_name["time_to_adapter"]["facts"]["symdream train"]
    assert by_name["time_to_adapter"]["ratios"]["script / ours"] > 0


def test_every_round_of_the_command_makes_its_latents_anew(tmp_path):
    commands = [time_to_adapter.command("symdream train", tmp_path, 2, tmp_path / f"run-{i}") for i in range(2)]
    caches = [command[command.index("--cache-dir") + 1] for command in commands]
    assert len(set(caches)) == 2 and all(not Path(cache).exists() for cache in caches)
