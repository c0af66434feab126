"""symdream compare, as a person runs it: requests that are wrong, reports, shards, a killed process."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.comparisons import simulated, unfinish
from helpers.fork_server import ForkServer
from helpers.grids import make_subjects, tiny_grid

from symdream.bench.cells import read_done
from symdream.bench.grid import PRESETS, build, to_toml
from symdream.bench.lock import locked
from symdream.bench.results import read_results, read_rows, write_results, write_rows
from symdream.cli import main
from symdream.commands.compare import Run, check, check_flags, parse, read_grid, read_shard
from symdream.errors import Problems
from symdream.files import read_json


def small():
    """Results of two arms on six subjects, the fewest that one comparison can be significant with."""
    return simulated({"singlora-r8": -0.06}, subjects=6, methods=("lora", "singlora"), match="rank")


@pytest.fixture
def folder(tmp_path):
    """A finished comparison, its two files alone."""
    content, rows = small()
    write_results(tmp_path, content)
    write_rows(tmp_path, rows)
    return tmp_path


def test_report_analyses_and_prints_where_the_page_is(folder, capsys):
    assert main(["compare", "report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    content = read_results(folder)
    assert content["paired"][0]["verdict"] == "inferior" and content["analysis"]["blocks"]["subjects"] == 6
    assert (folder / "report.html").is_file() and (folder / "table.tex").is_file()


def test_a_report_of_a_grid_at_work_leaves_its_results_alone(folder, capsys):
    before = (folder / "results.json").read_bytes()
    with locked(folder):
        assert main(["compare", "report", str(folder)]) == 0
    assert "being worked on" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before
    assert "inferior to LoRA r8" in (folder / "table.md").read_text()


@pytest.mark.parametrize("argv", [["report", "{folder}"], ["merge", "{folder}", "-o", "whole"]])
def test_what_trains_nothing_loads_no_torch(folder, tmp_path, argv):
    argv = ["compare", *(word.format(folder=folder) for word in argv)]
    code = f"import sys; from symdream.cli import main; assert main({argv!r}) == 0; assert 'torch' not in sys.modules"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip().endswith("report.html")


def test_merge_analyses_the_whole(folder, tmp_path, capsys):
    content, rows = small()
    ids = [cell["id"] for cell in content["cells"]]
    for name, lacking in (("a", ids[::2]), ("b", ids[1::2])):
        (tmp_path / name).mkdir()
        part, lines = unfinish(content, rows, *lacking)
        write_results(tmp_path / name, part)
        write_rows(tmp_path / name, lines)
    assert main(["compare", "merge", f"{tmp_path}/a", f"{tmp_path}/b", "-o", f"{tmp_path}/whole"]) == 0
    assert main(["compare", "report", str(folder)]) == 0
    whole, unbroken = read_results(tmp_path / "whole"), read_results(folder)
    assert whole["complete"] and whole["paired"] == unbroken["paired"]
    assert "Partial" not in (tmp_path / "whole" / "table.md").read_text()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["compare"], "--preset smoke|sprite|dreambooth"),
        (["compare", "--preset", "smoke", "--methods", "lora", "singlore"], 'did you mean "singlora"'),
        (["compare", "--preset", "smoke", "--subjects", "fxo"], 'did you mean "fox"'),
        (["compare", "--preset", "smoke", "--fixed", "--tune"], "contradict"),
        (["compare", "--preset", "smoke", "--fixed", "--settings", "x"], "contradict"),
        (["compare", "--preset", "smoke", "--tuning-only"], "nothing to tune"),
        (["compare", "--preset", "sprite", "--tuning-only", "--settings", "x"], "nothing to tune"),
        (["compare", "--preset", "sprite", "--shard", "1/4"], "tune once"),
        (["compare", "--preset", "smoke", "--shard", "5/4"], "not i/n"),
        (["compare", "--preset", "smoke", "--processes", "0"], "at least 1"),
        (["compare", "--preset", "dreambooth"], "--data FOLDER"),
        (["compare", "report", "/no/such"], "no results.json"),
        (["compare", "merge", "/no/such", "-o", "none"], "no results.json"),
        (["compare", "variants", "/no/such"], "no results.json"),
    ],
)
def test_a_wrong_request_is_one_clear_sentence(argv, part, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    told = capsys.readouterr().err
    assert part in told and "Traceback" not in told
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (
            ["--preset", "sprite", "--ranks", "0", "--shard", "5/4", "--processes", "0", "--settings", "no such"],
            ["4 problems", "ranks = 0", "--shard 5/4", "--processes 0", "--settings no such"],
        ),
        (["--config", "no.toml", "--together", "0"], ["2 problems", "No settings file no.toml", "--together 0"]),
        (
            ["merge", "a", "b", "-o", "file/c"],
            ["3 problems", "--output file/c", "No comparison in a", "No comparison in b"],
        ),
    ],
)
def test_all_that_is_wrong_with_a_request_is_told_at_once(argv, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["compare", *argv]) == 2
    told = capsys.readouterr().err
    assert all(part in told for part in parts), told


def test_results_of_another_format_are_refused(folder, capsys):
    content = json.loads((folder / "results.json").read_text()) | {"format": 2, "symdream": "9.9"}
    (folder / "results.json").write_text(json.dumps(content))
    for argv in (["report", str(folder)], ["--preset", "smoke", "-o", str(folder)]):
        assert main(["compare", *argv]) == 2
        assert "reads format 1" in (told := capsys.readouterr().err) and "(9.9)" in told


def test_what_the_report_needs_is_asked_for_before_any_work(folder, capsys, monkeypatch):
    monkeypatch.setattr("symdream.bench.libraries.find_spec", lambda name: None if name == "jinja2" else object())
    assert main(["compare", "--preset", "smoke", "-o", str(folder / "new")]) == 2
    told = capsys.readouterr().err
    assert "jinja2" in told and 'pip install "symdream[bench]"' in told and not (folder / "new").exists()


def test_the_commands_of_the_page_about_comparisons_parse():
    text = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    lines = [
        line.split("  #")[0]
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(lines) >= 7
    for line in lines:
        program, command, *argv = shlex.split(line)
        assert (program, command) == ("symdream", "compare")
        args = parse(argv)
        if isinstance(args, Run) and not args.settings:
            assert not check_flags(args, read_grid(args))


def test_flags_win_over_the_preset_each_under_its_own_name(tmp_path):
    data = make_subjects(tmp_path / "data")
    flags = ["--methods", "dora", "--ranks", "2", "3", "--subjects", "alpha", "--seeds", "5", "--image-seeds", "6", "7"]
    flags += ["--steps", "8", "--match", "both", "--data", str(data), "--dino", "d", "--clip", "c", "--device", "cpu"]
    wanted = {
        "methods": ["dora"], "ranks": [2, 3], "subjects": ["alpha"], "training_seeds": [5], "image_seeds": [6, 7],
        "steps": 8, "match": "both", "data": data, "dino": "d", "clip": "c", "device": "cpu",
    }  # fmt: skip
    assert read_grid(parse(["--preset", "smoke", *flags])) == build({**PRESETS["smoke"], "name": "smoke", **wanted})
    assert [read_grid(parse(["--preset", "sprite", *flags])).tune for flags in ([], ["--fixed"])] == [True, False]
    assert read_grid(parse(["--preset", "smoke", "--data", str(data), "--subjects", "alpha", "--tune"])).tune


@pytest.mark.parametrize(
    ("text", "shard"),
    [
        (None, (0, 1)),
        ("1/1", (0, 1)),
        ("1/4", (0, 4)),
        ("4/4", (3, 4)),
        *((t, None) for t in ("0/4", "5/4", "2", "-1/4", "1/4/4", "²/4")),
    ],
)
def test_a_shard_is_counted_from_1(text, shard):
    if shard:
        assert read_shard(text) == shard
    else:
        with pytest.raises(Problems, match="is not i/n"):
            read_shard(text)


def test_shards_may_tune_where_that_is_all_they_do():
    args = parse(["--preset", "sprite", "--shard", "1/4", "--tuning-only"])
    assert not check_flags(args, read_grid(args))


@pytest.mark.parametrize("finished", ["alpha", "beta"])
def test_given_settings_leave_out_what_they_were_tuned_on_unless_it_is_compared_already(tmp_path, finished):
    data, content = make_subjects(tmp_path / "data"), small()[0]
    content["tuning"] = [trial | {"subject": "beta"} for trial in content["tuning"]]
    cells = [cell | {"subject": name} for cell, name in zip(content["cells"], ("alpha", "beta"), strict=False)]
    for place in ("tuned", "out"):
        (tmp_path / place).mkdir()
        others = [cell["id"] for cell in cells if cell["subject"] != finished]
        write_results(tmp_path / place, unfinish(content | {"cells": cells}, [], *others)[0])
    (tmp_path / "grid.toml").write_text(f'data = "{data}"\ntune = false\n')
    args = Run(config=tmp_path / "grid.toml", settings=tmp_path / "tuned", output=tmp_path / "out")
    assert check(args)[0].left_out == ([] if finished == "beta" else ["beta"])


@pytest.fixture
def tiny_command(tiny_sd1, tmp_path):
    """A grid of three arms and one subject as a file, and the command that runs it."""
    data = make_subjects(tmp_path / "subjects é")
    less = {"methods": ["lora", "dora", "singlora"], "subjects": ["alpha"], "image_seeds": [0], "points": 1}
    grid = build(tiny_grid(tiny_sd1, data, **less))
    (tmp_path / "grid.toml").write_text(to_toml(grid))
    return ["compare", "--config", tmp_path / "grid.toml", "-o", tmp_path / "out"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_under_a_launcher_each_process_of_a_comparison_trains_alone(tiny_command, monkeypatch, capsys, rank):
    for kin in ("PMI", "OMPI_COMM_WORLD"):
        monkeypatch.setenv(f"{kin}_SIZE", "2")
        monkeypatch.setenv(f"{kin}_RANK", str(rank))
    assert main([*map(str, tiny_command), "--dry-run"]) == 0  # which trains some steps
    assert "cells" in capsys.readouterr().out


@pytest.mark.slow
def test_the_dry_run_tells_and_writes_nothing(tiny_command, capsys):
    assert main([*map(str, tiny_command), "--dry-run"]) == 0
    told = capsys.readouterr().out
    for part in ("cells     3: 3 arms × 1 subjects", "images    9: 3 a cell, and 3 of the base", "hours", "GB free"):
        assert part in told
    assert not tiny_command[-1].exists()


@pytest.mark.slow
def test_a_killed_grid_started_again_ends_as_if_it_never_was(tiny_command, tmp_path):
    """SIGKILL in the second cell: what was finished stays untouched, and the whole equals an unbroken one."""
    out = tiny_command[-1]
    with ForkServer() as server:
        unbroken = server.start(*tiny_command[:-1], tmp_path / "unbroken", log=tmp_path / "log")
        assert unbroken.wait() == 0
        child = server.start(*tiny_command, log=tmp_path / "log")
        child.wait_until(lambda: list(out.glob("cells/*/cell.json")))
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        first = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/cell.json")}
        assert 1 <= len(first) < 3
        child = server.start(*tiny_command, log=tmp_path / "log")
        assert child.wait() == 0 and f"{len(first)} of 3 are finished already" in child.said
    assert all(path.stat().st_mtime_ns == before for path, before in first.items())
    found, expected = (read_results(place) for place in (out, tmp_path / "unbroken"))
    assert [c["points"] for c in found["cells"]] == [c["points"] for c in expected["cells"]]
    assert found["paired"] == expected["paired"] and found["complete"]
    assert read_rows(out) == read_rows(tmp_path / "unbroken")
    assert all(read_done(out / "cells" / cell["id"]) for cell in found["cells"])
    assert "Comparison" in (out / "report.html").read_text()


@pytest.mark.slow
def test_workers_end_with_a_parent_that_is_killed_and_the_next_start_goes_on(tiny_command, tmp_path):
    """SIGKILL of the parent alone, while a worker trains: nothing is trained twice at once, and nothing fails."""
    out = tiny_command[-1]
    command = [*tiny_command, "--processes", "2", "--together", "1"]
    with ForkServer() as server:
        child = server.start(*command, log=tmp_path / "log")
        child.wait_until(lambda: any('"running"' in path.read_text() for path in out.glob("cells/*/state.json")))
        worker = next(read_json(path)["pid"] for path in out.glob("cells/*/state.json"))
        os.kill(worker, signal.SIGSTOP)  # so that the next start finds it at work, however fast it would end
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        child = server.start(*command, log=tmp_path / "log")
        child.wait_until(lambda: "was killed; waiting for its last process" in child.said)
        os.kill(worker, signal.SIGCONT)
        assert child.wait() == 0, child.said
        assert "FAILED" not in child.said
    assert read_results(out)["complete"]
