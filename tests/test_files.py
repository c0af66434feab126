import errno
import json

import pytest
import torch
from helpers.disk import file_size_limit
from safetensors import SafetensorError
from safetensors.torch import save_file

from symdream.errors import WorkError
from symdream.files import disk_error, write_atomically, write_json


def test_a_file_that_is_a_link_is_written_through(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "disk" / "real.json")
    for value in (1, 2):
        write_json(tmp_path / "link.json", value)
        assert (tmp_path / "link.json").is_symlink() and (tmp_path / "disk" / "real.json").read_text() == f"{value}\n"
    assert len(list(tmp_path.rglob("*"))) == 3


@pytest.mark.parametrize(
    ("error", "free", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True, "make room"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), True, "make room"),
        (SafetensorError("I/O error: File too large (os error 27)"), False, "ulimit -f"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), False, "remove files of yours"),
        (OSError(errno.EACCES, "Permission denied"), False, "make it writable"),
        (OSError(errno.EROFS, "Read-only file system"), False, "make it writable"),
        (OSError(errno.EIO, "Input/output error"), False, "choose another place"),
    ],
    ids=str,
)
def test_what_could_not_be_written_is_told_with_the_fix_for_its_reason(tmp_path, error, free, fix):
    told = disk_error(tmp_path / "file", error)
    assert fix in told.fix and "what was saved before is intact" in told.fix and "--" not in str(told)
    assert (told.where is not None and "MiB are free" in told.where) == free


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "state.json"
    write_json(path, {"step": 1})
    with pytest.raises((WorkError, TypeError)):
        write_json(path, {"step": object()})
    assert json.loads(path.read_text()) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_tensors_on_a_full_disk_leave_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("old")
    with file_size_limit(1000), pytest.raises(WorkError, match="Could not write") as caught:
        write_atomically(path, lambda temporary: save_file({"x": torch.zeros(10_000)}, temporary))
    assert "ulimit -f" in caught.value.fix
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_write_that_is_stopped_leaves_nothing(tmp_path):
    def stopped(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", stopped)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_to_at_all_is_told_as_such(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WorkError, match="Could not write"):
        write_json(tmp_path / "file" / "state.json", {})
