import pytest
import torch

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


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    leftover = tmp_path / ".step-5.123.tmp"
    leftover.mkdir()
    (leftover / "state.json").write_text("{")
    assert newest_intact(tmp_path) is None
    assert not leftover.exists()


def test_a_full_disk_leaves_the_older_checkpoint_and_says_what_to_do(tmp_path, monkeypatch):
    parameters, optimizer = make()
    save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("symdream.training.checkpoint.save_file", full)
    with pytest.raises(WorkError, match="No space left"):
        save_checkpoint(tmp_path, 2, {"unet": parameters}, optimizer, {}, keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    assert newest_intact(tmp_path).name == "step-1"


def test_a_checkpoint_of_another_shape_is_refused(tmp_path):
    parameters, optimizer = make()
    save_checkpoint(tmp_path, 1, {"unet": parameters}, optimizer, {}, keep=1)
    other = {"a": torch.nn.Parameter(torch.randn(3, 5)), "b": torch.nn.Parameter(torch.randn(5))}
    with pytest.raises(WorkError, match="other unet parameters"):
        load_checkpoint(tmp_path / "step-1", {"unet": other}, optimizer)
