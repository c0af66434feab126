import os

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
