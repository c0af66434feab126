"""What cannot be written is told before any work is done."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from symdream.cli import main
from symdream.commands import evaluate
from symdream.errors import Problems, WorkError
from symdream.whole_folder import write_folder
from symdream.writable import not_writable


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    assert not_writable(tmp_path) is None and not_writable(tmp_path / "a" / "b.safetensors") is None
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "a" / "b"
    wrong = not_writable(below)
    assert wrong.key == f"--output {below}" and f"{tmp_path / 'file'} is a file" in wrong.message


def test_a_name_that_its_temporary_would_be_too_long_for(tmp_path):
    assert "File name too long" in not_writable(tmp_path / ("n" * 245)).message
    assert not_writable(tmp_path / ("n" * 230)) is None and list(tmp_path.iterdir()) == []


def test_a_link_is_asked_about_where_it_leads(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file" / "below")
    assert f"{tmp_path / 'file'} is a file" in not_writable(tmp_path / "link").message


@pytest.mark.parametrize("mode", [0o555, 0o000])
def test_a_folder_without_permission(nobody, mode):
    folder = Path(tempfile.mkdtemp())  # not below tmp_path, which only its owner may enter
    folder.chmod(mode)
    below = [not_writable(folder / name) for name in ("new", "a/b/c")]
    folder.rmdir()
    assert all("Permission denied" in wrong.message for wrong in below)


def test_a_folder_that_is_replaced_needs_the_one_above_it(nobody):
    """write_folder, which replaces it by renaming beside it, is the judge."""
    above = Path(tempfile.mkdtemp())
    folder = above / "base"
    folder.mkdir()
    above.chmod(0o555)
    assert not_writable(folder) is None and "Permission denied" in not_writable(folder, whole=True).message
    with pytest.raises(WorkError, match="Permission denied"):
        write_folder(folder, lambda new: (new / "part").touch())
    above.chmod(0o755)
    folder.chmod(0o555)
    assert "Permission denied" in not_writable(folder).message and not_writable(folder, whole=True) is None
    write_folder(folder, lambda new: (new / "part").touch())
    assert [path.name for path in folder.iterdir()] == ["part"]
    shutil.rmtree(above)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_run_that_cannot_be_locked_can_be_evaluated_as_an_adapter(nobody, elsewhere):
    run = Path(tempfile.mkdtemp())
    run.chmod(0o555)
    with pytest.raises(Problems) as told:
        evaluate.check(evaluate.Args(run=run, output=Path(tempfile.gettempdir()) / "scores" if elsewhere else None))
    run.rmdir()
    assert "Permission denied" in str(told.value) and f"--adapter {run} --reference PHOTOS" in str(told.value)


@pytest.mark.parametrize("what", ["run", "adapter", "images"])
def test_an_evaluation_with_pictures_needs_the_folder_above_it_and_scores_alone_their_own(nobody, what):
    given, above = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
    scores = above / "scores"
    scores.mkdir()
    above.chmod(0o555)
    wrong = evaluate.output_problem(evaluate.Args(**{what: given}, output=scores))
    above.chmod(0o755)
    shutil.rmtree(above), given.rmdir()
    assert wrong is None if what == "images" else "Permission denied" in wrong.message


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux's")
def test_a_file_system_that_takes_nothing():
    assert "cannot be written: /proc" in not_writable(Path("/proc/new")).message


@pytest.mark.parametrize(
    "request_",
    [
        ["compare", "--preset", "smoke", "-o"],
        ["evaluate", "--images", ".", "--reference", ".", "--cache"],
        ["evaluate", "--adapter", ".", "--reference", ".", "--cache"],
    ],
)
def test_a_file_where_a_folder_is_to_be_written_into_is_told_first(tmp_path, capsys, request_, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in ("file", "link"):
        assert main([*request_, str(tmp_path / name)]) == 2
        told = capsys.readouterr().err
        assert "1 problem in the request" in told and f"{name}  is a file, and should be a folder" in told


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
