import os
import signal
from pathlib import Path

import pytest
import torch
from helpers.disk import file_size_limit
from safetensors.torch import save_file

from symdream.errors import WorkError
from symdream.metrics.drawing import Drawing
from symdream.whole_folder import write_folder


def fill(folder):
    (folder / "part").mkdir()
    save_file({"x": torch.zeros(10_000)}, folder / "part" / "model.safetensors")


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(there, tmp_path):
    folder = tmp_path / "base"
    if there:
        folder.mkdir()
        (folder / "mine").write_text("mine")
    with file_size_limit(1000), pytest.raises(WorkError, match="Could not write") as caught:
        write_folder(folder, fill)
    assert "ulimit -f" in caught.value.fix
    left = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))]
    assert left == (["base", "base/mine"] if there else [])


def test_what_is_stopped_leaves_nothing(tmp_path):
    def stopped(folder):
        fill(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_folder(tmp_path / "base", stopped)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("umask", "file_mode", "folder_mode"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_a_folder_is_as_readable_as_the_users_others(umask, file_mode, folder_mode, tmp_path):
    before = os.umask(umask)
    try:
        write_folder(tmp_path / "base", fill)
    finally:
        os.umask(before)
    for path in [tmp_path / "base", *(tmp_path / "base").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (folder_mode if path.is_dir() else file_mode)


@pytest.mark.parametrize("there", ["full", "empty", "nothing"])
def test_a_link_stays_and_what_it_leads_to_is_replaced(there, tmp_path):
    """On the disk that it leads to, which is why there is a link; the pictures of an evaluation wait there too."""
    disk, link = tmp_path / "big disk", tmp_path / "link"
    disk.mkdir()
    link.symlink_to(disk / "base")
    if there != "nothing":
        (disk / "base").mkdir()
    if there == "full":
        (disk / "base" / "old").touch()
    write_folder(link, fill)
    assert link.is_symlink() and [path.name for path in (disk / "base").iterdir()] == ["part"]
    assert [path.name for path in disk.iterdir()] == ["base"] and sorted(tmp_path.iterdir()) == [disk, link]
    assert Drawing(link, "", "").folder == disk / ".base.drawing"


def killed(folder, write, at):
    """write_folder in a process that is killed as it comes to the rename of this number."""
    child = os.fork()
    if child == 0:
        rename, count = Path.rename, iter(range(1, 10))
        Path.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL) if next(count) == at else rename(*names)
        write_folder(folder, write)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    return child


@pytest.mark.parametrize("at", [1, 2, 3])
def test_what_a_killed_process_put_aside_is_there_again_before_the_next_writes(at, tmp_path):
    """Killed before it put the old folder aside, before it put the new one there, and before it removed the old one."""
    folder, seen = tmp_path / "ba[s]e", []
    write_folder(folder, lambda new: (new / "old").touch())
    killed(folder, lambda new: (new / "new").touch(), at)

    def fails(new):
        seen.extend(path.name for path in folder.iterdir())
        raise OSError(28, "No space left on device")

    for _ in range(2):
        with pytest.raises(WorkError):
            write_folder(folder, fails)
    assert seen == ["old" if at < 3 else "new"] * 2 and list(tmp_path.iterdir()) == [folder]


def test_what_a_living_process_or_another_folder_has_beside_it_stays(tmp_path):
    others = [f".base.{os.getppid()}.tmp", f".base.{os.getppid()}.old", ".base.x.tmp", ".base.2.7.tmp", ".other.7.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    write_folder(tmp_path / "base", fill)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "base"])
