import pytest
import torch
from helpers.disk import file_size_limit

from symdream.errors import WorkError
from symdream.training.checkpoint import (
    damage,
    list_checkpoints,
    load_checkpoint,
    newest_intact,
    save_checkpoint,
)


def make(optimizer_class=torch.optim.AdamW, **options):
    torch.manual_seed(0)
    parameters = {"a": torch.nn.Parameter(torch.randn(3, 4)), "b": torch.nn.Parameter(torch.randn(5))}
    groups = [{"params": [parameters["a"]], "name": "x"}, {"params": [parameters["b"]], "name": "y", "lr": 0.5}]
    return parameters, optimizer_class(groups, lr=0.1, **options)


def step(parameters, optimizer, count):
    for i in range(count):
        sum((p * (i + 1)).pow(2).sum() for p in parameters.values()).backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize(
    ("optimizer_class", "options"),
    [(torch.optim.AdamW, {}), (torch.optim.AdamW, {"amsgrad": True}), (torch.optim.SGD, {"momentum": 0.9})],
)
def test_a_restored_optimizer_goes_on_bit_for_bit(tmp_path, optimizer_class, options):
    parameters, optimizer = make(optimizer_class, **options)
    step(parameters, optimizer, 3)
    save_checkpoint(tmp_path, 3, {"unet": parameters}, optimizer, {"scaler": {}}, keep=2)
    step(parameters, optimizer, 4)

    other, other_optimizer = make(optimizer_class, **options)
    state = load_checkpoint(tmp_path / "step-3", {"unet": other}, other_optimizer)
    assert state["step"] == 3
    step(other, other_optimizer, 4)
    for name in parameters:
        assert torch.equal(parameters[name], other[name])


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu_in_its_own_way(tmp_path):
    parameters, optimizer = make()
    step(parameters, optimizer, 3)
    for group in optimizer.param_groups:
        group |= {"fused": True, "capturable": True, "foreach": False}  # as the engines on a GPU have it
    save_checkpoint(tmp_path, 3, {"unet": parameters}, optimizer, {}, keep=1)
    other, other_optimizer = make()
    load_checkpoint(tmp_path / "step-3", {"unet": other}, other_optimizer)
    for group in other_optimizer.param_groups:
        assert (group["fused"], group["capturable"], group["foreach"]) == (None, False, None)
    unbroken, its_optimizer = make()
    step(unbroken, its_optimizer, 3)
    step(unbroken, its_optimizer, 2)
    step(other, other_optimizer, 2)
    assert all(torch.equal(other[name], unbroken[name]) for name in unbroken)


def test_a_rate_that_is_a_tensor_comes_back(tmp_path):
    """As a CUDA graph has it."""
    parameters, optimizer = make()
    for group, rate in zip(optimizer.param_groups, (0.03, 0.07), strict=True):
        group["lr"] = torch.tensor(rate)
    step(parameters, optimizer, 2)
    save_checkpoint(tmp_path, 2, {"unet": parameters}, optimizer, {}, keep=1)
    other, other_optimizer = make()
    load_checkpoint(tmp_path / "step-2", {"unet": other}, other_optimizer)
    assert [group["lr"] for group in other_optimizer.param_groups] == [torch.tensor(0.03), torch.tensor(0.07)]
    step(parameters, optimizer, 2)
    step(other, other_optimizer, 2)
    assert all(torch.equal(other[name], parameters[name]) for name in parameters)


def test_only_the_newest_are_kept(tmp_path):
    parameters, optimizer = make()
    for n in (2, 9, 10, 11):
        save_checkpoint(tmp_path, n, {"unet": parameters}, optimizer, {}, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-10", "step-11"]


@pytest.mark.parametrize("file", ["adapter-unet.safetensors", "optimizer.safetensors", "state.json", "SHA256SUMS"])
@pytest.mark.parametrize("harm", ["truncate", "flip", "remove"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, capsys, file, harm):
    parameters, optimizer = make()
    step(parameters, optimizer, 1)
    for n in (1, 2):
        save_checkpoint(tmp_path, n, {"unet": parameters}, optimizer, {}, keep=3)
    victim = tmp_path / "step-2" / file
    content = bytearray(victim.read_bytes())
    if harm == "truncate":
        victim.write_bytes(content[: len(content) // 2])
    elif harm == "flip":
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
    else:
        victim.unlink()
    assert damage(tmp_path / "step-2")
    assert newest_intact(tmp_path).name == "step-1"
    assert "step-2 is damaged" in capsys.readouterr().err


def test_checksums_cut_at_the_end_of_a_line_do_not_hide_a_damaged_file(tmp_path):
    parameters, optimizer = make()
    checkpoint = save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    sums = (checkpoint / "SHA256SUMS").read_text().splitlines(keepends=True)
    for count in range(len(sums)):
        (checkpoint / "SHA256SUMS").write_text("".join(sums[:count]))
        assert damage(checkpoint) == "SHA256SUMS is cut short"
    (checkpoint / "SHA256SUMS").write_text("".join(sums))
    assert damage(checkpoint) is None


def test_a_file_that_the_checksums_do_not_name_is_not_trusted(tmp_path):
    parameters, optimizer = make()
    checkpoint = save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    sums = (checkpoint / "SHA256SUMS").read_text().splitlines(keepends=True)
    for line in sums:
        (checkpoint / "SHA256SUMS").write_text("".join(other for other in sums if other != line))
        assert damage(checkpoint) == "SHA256SUMS is cut short"


def test_a_checkpoint_of_nothing_but_empty_checksums_is_damaged(tmp_path):
    """As a file system may leave it that writes names before contents."""
    (tmp_path / "step-2").mkdir()
    (tmp_path / "step-2" / "SHA256SUMS").touch()
    assert damage(tmp_path / "step-2") and newest_intact(tmp_path) is None


def test_an_emptied_checkpoint_is_named_and_the_one_before_it_used(tmp_path, capsys):
    parameters, optimizer = make()
    for n in (1, 2):
        save_checkpoint(tmp_path, n, {"unet": parameters}, optimizer, {}, keep=2)
    for file in (tmp_path / "step-2").iterdir():
        file.unlink()
    assert newest_intact(tmp_path).name == "step-1"
    assert "step-2 is damaged" in capsys.readouterr().err


def test_a_damaged_later_checkpoint_never_pushes_out_an_intact_one(tmp_path):
    parameters, optimizer = make()
    for n in (2, 4):
        save_checkpoint(tmp_path, n, {"unet": parameters}, optimizer, {}, keep=2)
    (tmp_path / "step-4" / "state.json").write_text("")
    save_checkpoint(tmp_path, 3, {"unet": parameters}, optimizer, {}, keep=1)  # resumed from 2, asked to stop at 3
    assert newest_intact(tmp_path).name == "step-3"
    save_checkpoint(tmp_path, 4, {"unet": parameters}, optimizer, {}, keep=1)
    assert newest_intact(tmp_path).name == "step-4"
    assert [p.name for p in tmp_path.iterdir()] == ["step-4"]


def test_an_intact_checkpoint_of_the_same_step_is_never_taken_away(tmp_path):
    parameters, optimizer = make()
    checkpoint = save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    before = {file: (file.stat().st_ino, file.read_bytes()) for file in checkpoint.iterdir()}
    save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    assert {file: (file.stat().st_ino, file.read_bytes()) for file in checkpoint.iterdir()} == before


@pytest.mark.parametrize("size", [0, 100, 300, 500])
def test_a_full_disk_leaves_the_older_checkpoint_and_says_what_to_do(tmp_path, size):
    parameters, optimizer = make()
    step(parameters, optimizer, 1)
    save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    with file_size_limit(size), pytest.raises(WorkError, match="File too large") as caught:
        save_checkpoint(tmp_path, 2, {"unet": parameters}, optimizer, {}, keep=1)
    assert "ulimit -f" in caught.value.fix
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    assert newest_intact(tmp_path).name == "step-1"


@pytest.mark.parametrize("sizes", [{"a": (3, 5), "b": (5,)}, {"a": (3, 4)}, {"a": (3, 4), "b": (5,), "c": (5,)}])
def test_a_checkpoint_of_other_shapes_or_parameters_is_refused_and_changes_nothing(tmp_path, sizes):
    parameters, optimizer = make()
    save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    other = {name: torch.nn.Parameter(torch.zeros(size)) for name, size in sizes.items()}
    with pytest.raises(WorkError, match="other unet parameters"):
        load_checkpoint(tmp_path / "step-1", {"unet": other}, optimizer)
    assert not any(parameter.any() for parameter in other.values())


def test_a_checkpoint_of_another_optimizer_is_refused(tmp_path):
    parameters, optimizer = make()
    step(parameters, optimizer, 1)
    save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    other, other_optimizer = make(torch.optim.Adam)
    with pytest.raises(WorkError, match=r"of another optimizer \(AdamW\) than this run's \(Adam\)"):
        load_checkpoint(tmp_path / "step-1", {"unet": other}, other_optimizer)
