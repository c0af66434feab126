import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from symdream import cli


def run(*args, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "symdream.cli", *args], capture_output=True, text=True, timeout=120, **kwargs
    )


def test_help_lists_exactly_the_commands_that_exist():
    result = run("--help")
    assert result.returncode == 0
    for name, line in cli.COMMANDS.items():
        assert name in result.stdout and line in result.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_line_in_the_help_is_the_modules_own(name):
    module = importlib.import_module(f"symdream.commands.{name}")
    assert module.__doc__.splitlines()[0] == cli.COMMANDS[name]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_without_loading_torch(name):
    code = (
        "import sys; from symdream.cli import main\n"
        f"try: main([{name!r}, '--help'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


@pytest.mark.parametrize(
    "argv",
    [
        ["compare", "--preset", "smoke", "--shard", "5/4"],
        ["compare", "--preset", "smoke", "--ranks", "0", "--settings", "nowhere"],
        ["compare", "report", "nowhere"],
        ["compare", "merge", "nowhere", "nowhere"],
        ["compare", "variants", "nowhere"],
        ["generate", "--adapter", ".", "--prompt", "a {sbject}"],
        ["export", ".", "--to", "kohya", "-o", "a.safetensors", "--compress", "3MBB"],
    ],
)
def test_a_wrong_request_is_told_without_loading_torch(argv, tmp_path):
    code = (
        "import sys; from symdream.cli import main\n"
        f"assert main({argv!r}) == 2\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_script_of_training_tells_a_wrong_request_without_loading_torch(tmp_path):
    script = str(Path(cli.__file__).parent / "train.py")
    code = (
        f"import runpy, sys; sys.argv = [{script!r}, '--images', 'nowhere', '--class-noun', 'dog']\n"
        f"try: runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 2, end.code\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 0 and "nowhere" in result.stderr, result.stderr


@pytest.mark.parametrize("args", [[], ["trian"], ["--nonsense"]])
def test_a_wrong_command_ends_with_2_and_the_list(args):
    result = run(*args)
    assert result.returncode == 2 and "COMMAND" in result.stderr and not result.stdout
    if args == ["trian"]:
        assert 'did you mean "train"?' in result.stderr


def test_an_unknown_flag_ends_with_2():
    result = run("train", "--lerning-rate", "3")
    assert result.returncode == 2 and "lerning-rate" in result.stderr


def test_import_symdream_loads_no_library():
    code = (
        "import sys, symdream; bad = {'torch', 'diffusers', 'peft', 'pydantic', 'tyro', 'numpy'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_no_top_module_shadows_a_library():
    from importlib.metadata import packages_distributions

    import symdream

    ours = {p.stem for p in Path(symdream.__file__).parent.iterdir() if p.suffix in ("", ".py")} - {"__pycache__"}
    libraries = set(sys.stdlib_module_names) | set(packages_distributions()) | {"datasets", "evaluate"}
    assert not ours & (libraries - {"symdream"})


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_help_reaches_a_file_of_an_old_encoding(encoding):
    # What Windows gives a command whose output goes into a file; the help has a Λ.
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    result = subprocess.run(
        [sys.executable, "-m", "symdream.cli", "train", "--help"], env=environment, capture_output=True, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert r"SymLoRA: learning rate of \u039b" in result.stdout.decode(encoding)


def test_windows_is_told_where_it_runs(monkeypatch, capsys):
    monkeypatch.setattr(cli.os, "name", "nt")
    code = cli.main(["train", "--help"])
    monkeypatch.undo()
    assert code == 1 and "WSL" in capsys.readouterr().err


@pytest.mark.parametrize("ours", [True, False])
def test_only_a_gone_reader_of_our_output_ends_a_command_silently(ours, tmp_path):
    """A pipe that broke elsewhere is a mistake of ours, with a trace, however well our output is read."""
    code = (
        "import os, sys; from symdream import cli; from symdream.commands import doctor\n"
        "def breaks(_):\n"
        f"    if {ours}: print('x' * 100_000, flush=True)\n"
        "    r, w = os.pipe(); os.close(r); os.write(w, b'x')\n"
        "doctor.parse = lambda argv: None; doctor.run = breaks\n"
        "sys.exit(cli.run_command('doctor', []))"
    )
    reader, writer = os.pipe()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    if ours:
        os.close(reader)
    _, told = process.communicate(timeout=120)
    if not ours:
        os.close(reader)
    assert process.returncode == (141 if ours else 1)
    assert told == "" if ours else "BrokenPipeError" in told


TABLE = "from rich.table import Table; from symdream.ui import results_console; results_console().print(Table('x'))"


@pytest.mark.parametrize("prints", ["print('x')", TABLE, "--help", "--version"])
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("nobody_reads", [True, False])
def test_output_that_cannot_be_written_is_told_by_the_exit_code_and_nothing_else(prints, buffered, nobody_reads):
    code = (
        "import sys; from symdream import cli; from symdream.commands import doctor\n"
        f"def work(_):\n    {'pass' if prints[0] == '-' else prints}\n"
        "doctor.parse, doctor.run = (lambda argv: None), work\n"
        f"sys.exit(cli.main([{prints if prints[0] == '-' else 'doctor'!r}]))"
    )
    env = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    if nobody_reads:
        reader, out = os.pipe()
        os.close(reader)
    elif Path("/dev/full").exists():
        out = os.open("/dev/full", os.O_WRONLY)  # every write to it fails: no space left
    else:
        pytest.skip("no /dev/full here")
    result = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, env=env)
    os.close(out)
    told = "" if nobody_reads else "\nCould not go on: No space left on device.\n"
    assert (result.returncode, result.stderr) == (141 if nobody_reads else 1, told)


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        ("bytearray(1 << 62)", "Out of memory.\n  fix:"),
        ("(_ for _ in ()).throw(RuntimeError('unable to mmap 9 bytes: Cannot allocate memory (12)'))", "where: unable"),
        ("(_ for _ in ()).throw(RuntimeError('shapes do not match'))", "RuntimeError: shapes do not match"),
    ],
)
def test_running_out_of_memory_is_told_in_a_sentence_without_loading_torch(fails, told):
    lines = (
        "import sys; from symdream import cli; from symdream.commands import doctor\n"
        f"doctor.parse = lambda argv: None; doctor.run = lambda _: {fails}\n"
        "code = cli.run_command('doctor', [])\n"
        "assert 'torch' not in sys.modules, 'torch was imported'\n"
        "sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=120)
    assert result.returncode == 1 and told in result.stderr
    assert ("Traceback" in result.stderr) is ("shapes" in fails)
