import multiprocessing
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from symdream.data.cache_folder import cache_folder
from symdream.data.store import Store, content_key, tensors_hash
from symdream.errors import RequestError

TENSORS = {"mean": torch.arange(12.0).view(3, 4), "std": torch.ones(2, dtype=torch.bfloat16)}


def never():
    raise AssertionError("made again")


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_second_store_finds_what_the_first_made_bit_for_bit(tmp_path):
    assert same(Store(tmp_path).fetch("latents", "k", lambda: TENSORS), TENSORS)
    second = Store(tmp_path)
    assert same(second.fetch("latents", "k", never), TENSORS)
    assert second.counts("latents") == "1 from the cache" and second.counts("texts") == "none"


@pytest.mark.parametrize("damage", ["cut short", "empty", "one bit", "no checksum", "text"])
def test_a_damaged_entry_is_named_and_made_again(tmp_path, capsys, damage):
    path = tmp_path / "latents" / "k.safetensors"
    Store(tmp_path).fetch("latents", "k", lambda: TENSORS)
    whole = path.read_bytes()
    if damage == "no checksum":
        save_file(TENSORS, path)
    else:
        flipped = whole[:-1] + bytes([whole[-1] ^ 1])
        path.write_bytes({"cut short": whole[:-5], "empty": b"", "text": b"hello" * 9}.get(damage, flipped))
    again = Store(tmp_path)
    assert same(again.fetch("latents", "k", lambda: TENSORS), TENSORS)
    assert again.made["latents"] == 1 and str(path) in capsys.readouterr().err
    assert same(Store(tmp_path).fetch("latents", "k", never), TENSORS)


def write_many(folder):
    store = Store(folder)
    for number in range(60):
        value = torch.full((64, 64), float(number))
        assert same(store.fetch("latents", str(number), lambda value=value: {"x": value}), {"x": value})


def test_processes_writing_at_once_do_no_harm(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(tmp_path,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    names = {p.name for p in (tmp_path / "latents").iterdir()}
    assert names == {f"{number}.safetensors" for number in range(60)}, "no temporary file is left"
    store = Store(tmp_path)
    for number in range(60):
        assert store.fetch("latents", str(number), never)["x"][0, 0] == number


def test_a_cache_that_cannot_be_written_is_said_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    store = Store(tmp_path / "file")
    for key in "ab":
        assert same(store.fetch("latents", key, lambda: TENSORS), TENSORS)
    assert capsys.readouterr().err.count("cannot be written") == 1


def test_so_is_one_that_may_not_be_entered(nobody, capsys):
    place = Path(tempfile.mkdtemp())  # not below tmp_path, which only its owner may enter
    (place / "latents").mkdir(mode=0)
    assert same(Store(place).fetch("latents", "a", lambda: TENSORS), TENSORS)
    told = capsys.readouterr().err
    assert told.count("cannot be written") == 1 and "Permission denied" in told and "SYMDREAM_CACHE" in told
    (place / "latents").rmdir()
    place.rmdir()


def test_keys_tell_every_part_apart_and_forget_their_order():
    base = {"image": "a", "size": (64, 64), "flip": False}
    assert content_key(**base) == content_key(**dict(reversed(base.items())))
    others = [base | change for change in ({"image": "b"}, {"size": (64, 128)}, {"flip": True}, {"more": 1})]
    assert len({content_key(**parts) for parts in [base, *others]}) == 5


def test_the_hash_of_tensors_sees_name_shape_dtype_and_value():
    x = torch.zeros(2, 3)
    variants = [{"x": x}, {"y": x}, {"x": x.view(3, 2)}, {"x": x.to(torch.int32)}, {"x": x + 1e-30}]
    assert len({tensors_hash(v) for v in variants}) == 5
    assert tensors_hash({"x": x, "y": x}) == tensors_hash({"y": x, "x": x})


def test_the_folder_is_the_one_asked_for_then_the_environments_then_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("SYMDREAM_CACHE", str(tmp_path / "env"))
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    assert cache_folder(None) == tmp_path / "env"
    monkeypatch.delenv("SYMDREAM_CACHE")
    assert cache_folder(None).parts[-2:] == (".cache", "symdream")


def test_a_user_without_a_home_folder_is_asked_for_one_for_the_cache(monkeypatch):
    for name in ("HOME", "SYMDREAM_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # a number that the system's list of users lacks
    with pytest.raises(RequestError, match="no home folder") as refused:
        cache_folder(None)
    assert "--cache-dir" in refused.value.fix
