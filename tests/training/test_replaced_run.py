import os

import pytest
from helpers.runs import bare_run

from symdream.errors import RequestError
from symdream.training.run_folder import RunFolder


def test_overwrite_replaces_a_run_but_nothing_else(tmp_path):
    bare_run(tmp_path / "run")
    (tmp_path / "run" / "old").write_text("")
    run = RunFolder.create(tmp_path / "run", overwrite=True)
    assert (run.path / "old").exists()  # nothing has begun
    run.acquire()
    assert not (run.path / "old").exists()
    run.config.write_text("")
    run.drop_replaced()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    run.release()
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter.txt").write_text("years")
    with pytest.raises(RequestError, match="not a run folder"):
        RunFolder.create(precious, overwrite=True)
    assert (precious / "chapter.txt").read_text() == "years"


@pytest.mark.parametrize("linked", [False, True])
def test_what_was_to_be_replaced_comes_back_if_the_new_run_never_begins(tmp_path, linked):
    place = tmp_path / "run"
    if linked:
        (tmp_path / "big disk").mkdir()
        place.symlink_to("big disk")
    bare_run(place)
    (place / "old").write_text("precious")
    run = RunFolder.create(place, overwrite=True)
    run.acquire()
    run.config.write_text("new")
    run.remove()
    run.release()
    assert (place / "old").read_text() == "precious" and run.config.read_text() == ""
    assert place.is_symlink() == linked
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_overwrite_through_a_link_replaces_the_run_that_it_leads_to(tmp_path):
    disk, link = tmp_path / "big disk", tmp_path / "run"
    link.symlink_to(disk / "real")
    disk.mkdir()
    (disk / "real").mkdir()
    (bare_run(link).path / "old").touch()
    run = RunFolder.create(link, overwrite=True)
    run.acquire()
    run.config.write_text("new")
    run.drop_replaced()
    run.release()
    assert link.is_symlink() and (disk / "real" / "config.toml").read_text() == "new"
    assert sorted(path.name for path in link.iterdir()) == ["config.toml", "lock"]
    assert [path.name for path in disk.iterdir()] == ["real"] and sorted(tmp_path.iterdir()) == [disk, link]


def test_a_run_put_aside_through_a_link_comes_back_where_it_leads(tmp_path, capsys):
    """As by a process that was killed right after it had put the run aside."""
    link = tmp_path / "run"
    link.symlink_to("real")
    aside = tmp_path / ".real.old-x1" / "real"
    aside.mkdir(parents=True)
    bare_run(aside)
    assert RunFolder.open(link).config.exists() and "is there again" in capsys.readouterr().err
    assert link.is_symlink() and sorted(path.name for path in tmp_path.iterdir()) == ["real", "run"]


def test_what_a_killed_process_put_aside_is_put_back_or_named(tmp_path, capsys):
    run = RunFolder.create(tmp_path / "run")
    aside = tmp_path / ".run.old-x1" / "run"
    os.renames(run.path, aside)  # killed before the new folder was made
    (aside / "config.toml").write_text("old")
    assert RunFolder.open(run.path).config.read_text() == "old" and not aside.parent.exists()
    os.renames(run.path, aside)
    run.path.mkdir()
    run.config.write_text("new")
    run.acquire()
    RunFolder.open(run.path)  # while a process is at work, nothing is touched
    run.release()
    assert run.config.read_text() == "new" and aside.exists()
    (tmp_path / ".run.old-x2.gone" / "run").mkdir(parents=True)  # killed while it removed what was replaced
    capsys.readouterr()
    run.metrics.write_text("{}\n")
    assert RunFolder.open(run.path).config.read_text() == "new" and (aside / "config.toml").read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".run.old-x1", "run"]
    assert f"{aside} is what {run.path} once replaced" in capsys.readouterr().err


def test_what_is_no_started_run_never_gives_way(tmp_path, capsys):
    aside = RunFolder(tmp_path / ".run.old-x1" / "run")
    aside.path.mkdir(parents=True)
    aside.config.write_text("old")
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    (run.path / "thesis.tex").write_text("mine")
    queued = {"config.toml": "new", "state.json": '{"status": "queued"}'}
    for content in ({"thesis.tex": "mine"}, queued, {**queued, "state.json": '{"status": "running"}', "a.png": "mine"}):
        for name, text in content.items():
            (run.path / name).write_text(text)
        run.put_back()
        assert all((run.path / name).read_text() == text for name, text in content.items())
        assert f"{aside.path} is what {run.path} once replaced" in capsys.readouterr().err
        for name in content:
            (run.path / name).unlink()
    run.put_back()
    assert run.config.read_text() == "old" and not aside.path.exists()


def test_nothing_is_put_back_while_the_run_aside_is_held(tmp_path):
    aside = RunFolder(tmp_path / ".run.old-x1" / "run")
    aside.path.mkdir(parents=True)
    aside.config.write_text("old")
    aside.acquire()  # as by a process that has put it aside and not yet made the new folder
    RunFolder(tmp_path / "run").put_back()
    assert aside.config.exists() and not (tmp_path / "run").exists()
