"""What cannot be written is told before any work is done."""

import sys
import tempfile
from pathlib import Path

import pytest

from symdream.cli import main
from symdream.writable import not_writable


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    assert not_writable(tmp_path) is None and not_writable(tmp_path / "a" / "b.safetensors") is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "a" / "b"
    wrong = not_writable(below)
    assert wrong.key == f"--output {below}" and f"{tmp_path / 'file'} is a file" in wrong.message


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission(nobody, mode):
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which only its owner may enter
    folder.chmod(mode)
    below = [not_writable(folder / name) for name in ("new", "a/b/c")]
    folder.rmdir()
    assert all("Permission denied" in wrong.message for wrong in below)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_file_system_that_takes_nothing():
    assert "cannot be written: /proc" in not_writable(Path("/proc/new")).message


SHARD = str(Path(__file__).parent.parent / "docs" / "compare-sprite")


@pytest.mark.parametrize(
    "request_",
    [
        ["compare", "--preset", "smoke", "-o"],
        ["compare", "merge", SHARD, "-o"],
        ["generate", "--adapter", ".", "--prompt", "a toy", "-o"],
        ["evaluate", "--adapter", ".", "--reference", ".", "-o"],
        ["export", ".", "--to", "peft", "-o"],
        ["base", "export", "sprite"],
    ],
)
def test_every_command_that_writes_asks_first(tmp_path, capsys, request_):
    (tmp_path / "file").touch()
    assert main([*request_, str(tmp_path / "file" / "new")]) == 2
    told = capsys.readouterr().err
    assert "1 problem in the request" in told and f"{tmp_path / 'file'} is a file" in told
