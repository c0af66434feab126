import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from symdream.diffusion.int8 import SCALE, SMALLEST, dequantise, quantise, read_int8, write_int8
from symdream.errors import WorkError


@settings(deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 33),
    magnitude=st.floats(1e-9, 1e6),
    seed=st.integers(0, 2**31),
)
def test_no_number_is_off_by_more_than_half_its_rows_scale(rows, columns, magnitude, seed):
    weight = torch.randn(rows, columns, 2, generator=torch.Generator().manual_seed(seed)) * magnitude
    quantised, scale = quantise(weight)
    error = (dequantise(quantised, scale).double() - weight.double()).abs().flatten(1).amax(1)
    # Rounding s * q to fp32 adds at most 2^-24 of the largest value.
    assert (error <= scale.double() / 2 + weight.double().abs().max() * 2**-23).all()


def test_scales_differ_by_row_and_a_row_of_zeros_stays_zero():
    weight = torch.tensor([[1.0, -127.0], [0.0, 0.0], [0.01, 0.0127]])
    quantised, scale = quantise(weight)
    assert quantised.dtype == torch.int8
    assert scale.dtype == torch.float16
    assert scale.shape == (3,)
    restored = dequantise(quantised, scale)
    assert torch.equal(restored[:2], weight[:2])
    assert torch.allclose(restored[2], weight[2], atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 127 * 65504 * 2.0])
def test_what_int8_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError, match="quantise"):
        quantise(torch.tensor([[1.0, bad]]))


def test_a_small_tensor_that_fp16_cannot_hold_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="norm.weight"):
        write_int8({"norm.weight": torch.tensor([70000.0])}, tmp_path)


def a_state():
    generator = torch.Generator().manual_seed(0)
    return {
        "linear.weight": torch.randn(128, 64, generator=generator),
        "conv.weight": torch.randn(64, 32, 3, 3, generator=generator),
        "norm.weight": torch.randn(64, generator=generator),
        "small.weight": torch.randn(4, 4, generator=generator),
        "scalar": torch.tensor(2.5),
        "ids": torch.arange(77),
    }


def test_a_state_dict_survives_writing_and_reading(tmp_path):
    state = a_state()
    write_int8(state, tmp_path)
    restored = read_int8(tmp_path)
    assert restored.keys() == state.keys()
    for name, tensor in state.items():
        assert restored[name].shape == tensor.shape
        if tensor.is_floating_point():
            assert restored[name].dtype == torch.float32
            rows = tensor.abs().flatten(1).amax(1) if tensor.ndim > 1 else tensor.abs().max()
            limit = rows.max() / 127 * 0.51 if tensor.numel() >= SMALLEST else tensor.abs().max() * 2**-10
            assert (restored[name] - tensor).abs().max() <= limit
        else:
            assert torch.equal(restored[name], tensor)


def test_large_tensors_are_int8_and_the_others_fp16_on_disk(tmp_path):
    [path] = write_int8(a_state(), tmp_path)
    stored = load_file(path)
    assert stored["linear.weight"].dtype == torch.int8
    assert stored["linear.weight" + SCALE].shape == (128,)
    assert stored["norm.weight"].dtype == stored["small.weight"].dtype == torch.float16
    assert stored["ids"].dtype == torch.int64


def test_reading_what_was_written_and_writing_it_again_changes_nothing(tmp_path):
    write_int8(a_state(), tmp_path / "first")
    once = read_int8(tmp_path / "first")
    write_int8(once, tmp_path / "second")
    twice = read_int8(tmp_path / "second")
    for name, tensor in once.items():
        assert torch.allclose(twice[name].float(), tensor.float(), rtol=2e-3, atol=1e-6)


def test_shards_keep_to_their_size_and_are_all_read(tmp_path):
    paths = write_int8(a_state(), tmp_path, shard_bytes=20_000)
    assert len(paths) >= 2
    assert all(path.stat().st_size < 22_000 for path in paths)
    assert read_int8(tmp_path).keys() == a_state().keys()


def test_a_missing_shard_is_told_with_the_count(tmp_path):
    paths = write_int8(a_state(), tmp_path, shard_bytes=20_000)
    paths[0].unlink()
    with pytest.raises(WorkError, match=f"{len(paths) - 1} of {len(paths)} weight shards"):
        read_int8(tmp_path)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(WorkError, match="0 of 1"):
        read_int8(tmp_path)


def test_a_truncated_shard_is_told_with_its_path(tmp_path):
    [path] = write_int8(a_state(), tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WorkError, match=path.name):
        read_int8(tmp_path)


def test_an_int8_weight_without_its_scale_is_told_by_name(tmp_path):
    save_file({"w": torch.zeros(2, 2, dtype=torch.int8)}, tmp_path / "weights-00001-of-00001.safetensors")
    with pytest.raises(WorkError, match="int8 weight w has no"):
        read_int8(tmp_path)
