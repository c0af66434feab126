"""Files that must be refused: clearly, with nothing written and nothing in them run."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from symdream.errors import RequestError
from symdream.interop.export import export
from symdream.interop.inspect import inspect_adapter
from symdream.interop.read import read_adapter
from symdream.training.run_folder import RunFolder

MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = f"unet.{MODULE}.lora_A.weight", f"unet.{MODULE}.lora_B.weight"


def good() -> dict[str, torch.Tensor]:
    return {A: torch.ones(2, 8), B: torch.ones(8, 2)}


def raw(path, header: str | dict, data: bytes = b""):
    """A safetensors file of exactly this header."""
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def truncated(path):
    save_file(good(), path)
    path.write_bytes(path.read_bytes()[:-5])


def cut_in_the_header(path):
    save_file(good(), path)
    path.write_bytes(path.read_bytes()[:40])


def huge_header(path):
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")


def duplicate_name(path):
    entry = '{"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}'
    raw(path, f'{{"{A}": {entry}, "{A}": {entry}}}', bytes(64))


def the_same_weight_under_two_names(path):
    save_file(good() | {f"unet.{MODULE}.lora.down.weight": torch.ones(2, 8)}, path)


def integers(path):
    save_file({A: torch.ones(2, 8, dtype=torch.int32), B: torch.ones(8, 2)}, path)


def eight_bits(path):
    save_file({A: torch.ones(2, 8).to(torch.float8_e4m3fn), B: torch.ones(8, 2)}, path)


def not_a_number(path):
    save_file(good() | {B: torch.full((8, 2), float("nan"))}, path)


def rank_zero(path):
    save_file({A: torch.ones(0, 8), B: torch.ones(8, 0)}, path)


def half_a_layer(path):
    save_file({A: torch.ones(2, 8)}, path)


def singlora_of_another_program(path):
    save_file({A: torch.ones(2, 8), A.replace("to_q", "to_k"): torch.ones(2, 8)}, path)


def factors_that_do_not_fit(path):
    save_file({A: torch.ones(2, 8), B: torch.ones(8, 3)}, path)


def a_convolution_with_the_kernel_in_both(path):
    save_file({A: torch.ones(2, 8, 1, 1), B: torch.ones(8, 2, 3, 3)}, path)


def two_alphas(path):
    save_file(good() | {A.replace("lora_A.weight", "alpha"): torch.ones(2)}, path)


def shape_against_bytes(path):
    raw(path, {A: {"dtype": "F32", "shape": [9, 9], "data_offsets": [0, 64]}}, bytes(64))


def header_that_is_no_json(path):
    raw(path, "this is no json")


def header_that_is_a_list(path):
    raw(path, "[1, 2]")


def header_of(**changes):
    """Makes files whose header is sound but for these values of the entry of A, or without those that are None."""

    def make(path):
        entry = {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]} | changes
        other = {"dtype": "F32", "shape": [8, 2], "data_offsets": [64, 128]}
        raw(path, {A: {k: v for k, v in entry.items() if v is not None}, B: other}, bytes(128))

    make.__name__ = f"header_of_{changes}"
    return make


def metadata_of(value):
    """Makes sound files with this as `__metadata__`."""

    def make(path):
        save_file(good(), path)
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        raw(path, {"__metadata__": value, **json.loads(content[8 : 8 + length])}, content[8 + length :])

    make.__name__ = f"metadata_of_{value}"
    return make


def header_of_many_brackets(path):
    raw(path, "[" * 50_000)


def pickle_in_disguise(path):
    with path.open("wb") as stream:
        torch.save(good(), stream)


def numpy_archive(path):
    with path.open("wb") as stream:
        np.savez(stream, **{name: tensor.numpy() for name, tensor in good().items()})


def a_cut_archive(path):
    numpy_archive(path)
    path.write_bytes(path.read_bytes()[:40])


def archive_with(**changed):
    """NumPy's, whose last entry in the table of contents has these bytes at these places (`at6=…`)."""

    def archive(path):
        numpy_archive(path)
        data = bytearray(path.read_bytes())
        entry = data.rindex(b"PK\x01\x02")
        for place, byte in changed.items():
            data[entry + int(place.removeprefix("at"))] = byte
        path.write_bytes(data)

    archive.__name__ = f"archive_with_{'_'.join(changed)}"
    return archive


def numpy_array(path):
    with path.open("wb") as stream:
        np.save(stream, np.ones(3))


def empty(path):
    path.write_bytes(b"")


def nothing_of_ours(path):
    save_file({"some.weight": torch.ones(2)}, path)


def a_loha(path):
    save_file({"lora_unet_mid_block_attentions_0_proj_in.hada_w1_a": torch.ones(2, 2)}, path)


def an_oft(path):
    name = "lora_unet_mid_block_attentions_0_proj_in"
    save_file({f"{name}.oft_blocks": torch.ones(2, 2, 2), f"{name}.alpha": torch.tensor(2)}, path)


def input_axis_dora(path):
    name = "lora_unet_mid_block_attentions_0_proj_in"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 8), f"{name}.lora_up.weight": torch.ones(6, 2)}
    save_file(tensors | {f"{name}.dora_scale": torch.ones(1, 8)}, path)


BAD = {
    truncated: "truncated",
    cut_in_the_header: "truncated",
    huge_header: "not a safetensors file",
    duplicate_name: "twice",
    the_same_weight_under_two_names: "same weight twice",
    integers: "as I32",
    eight_bits: "as F8_E4M3",
    not_a_number: "NaN",
    rank_zero: "rank 0",
    half_a_layer: "only a part",
    singlora_of_another_program: "looks like a SingLoRA of another program",
    factors_that_do_not_fit: "do not fit",
    a_convolution_with_the_kernel_in_both: "do not fit",
    two_alphas: "an alpha of 2 numbers",
    shape_against_bytes: "do not fit its shape",
    header_that_is_no_json: "not a safetensors file",
    header_that_is_a_list: "not a safetensors file",
    header_of_many_brackets: "header cannot be read",
    **dict.fromkeys(
        [
            *(header_of(**{key: None}) for key in ("dtype", "shape", "data_offsets")),
            *(header_of(dtype=dtype) for dtype in (5, [])),
            *(header_of(shape=shape) for shape in (16, [True, True], [-2, -8], [2.0, 8.0])),
            *(header_of(data_offsets=offsets) for offsets in ([0, 1, 2], [64, 0], [-64, 0], ["a", "b"], [0.0, 64.0])),
            *(metadata_of(value) for value in ([1], "x", {"a": 1}, {"symdream": {"trigger": "sks"}})),
        ],
        "header cannot be read",
    ),
    pickle_in_disguise: "is a pickle",
    numpy_archive: "holds NumPy arrays",
    a_cut_archive: "is a pickle",
    archive_with(at6=200): "is a pickle",  # of version 20 of the format
    archive_with(at9=8, at46=0xFF): "is a pickle",  # of a name that says it is UTF-8
    numpy_array: "holds NumPy arrays",
    empty: "not a safetensors file",
    nothing_of_ours: "No adapter weight was recognised",
    a_loha: "looks like a LoHa",
    an_oft: "looks like an OFT",
    input_axis_dora: "DoRA of another kind",
}
cases = pytest.mark.parametrize(("make", "message"), BAD.items(), ids=[make.__name__ for make in BAD])


@cases
def test_a_bad_file_is_refused_and_nothing_is_written(make, message, tmp_path):
    path, output = tmp_path / "bad.safetensors", tmp_path / "out" / "x.safetensors"
    make(path)
    with pytest.raises(RequestError, match=message):
        export(path, "kohya", output)
    assert not output.parent.exists()


def test_a_cut_adapter_is_not_told_the_way_to_a_base(tmp_path):
    truncated(tmp_path / "x.safetensors")
    with pytest.raises(RequestError, match="truncated") as caught:
        read_adapter(tmp_path / "x.safetensors")
    assert caught.value.fix == "download, copy or export it again"


# What inspect shows instead of refusing it.
SHOWN = {
    not_a_number: "NaN",
    rank_zero: "rank 0",
    factors_that_do_not_fit: "do not fit",
    a_convolution_with_the_kernel_in_both: "do not fit",
    two_alphas: "do not fit",
    input_axis_dora: None,
}


@cases
def test_inspect_refuses_or_warns_of_the_same_files(make, message, tmp_path):
    path = tmp_path / "bad.safetensors"
    make(path)
    if make not in SHOWN:
        with pytest.raises(RequestError, match=message):
            inspect_adapter(path)
        return
    facts = inspect_adapter(path)
    assert facts["ranks"]
    if SHOWN[make]:
        assert any(SHOWN[make] in warning for warning in facts["warnings"])


KOHYA = f"lora_unet_{MODULE.replace('.', '_')}"
KINDS = {
    f"{KOHYA}.hada_w1_a": "a LoHa",
    f"{KOHYA}.lokr_w1": "a LoKr",
    f"base_model.model.{MODULE}.oft_R.weight": "an OFT",
    f"{KOHYA}.a1.weight": "a GLoRA",
    f"{KOHYA}.on_input": "an IA3",
    f"base_model.model.{MODULE}.ia3_l": "an IA3",
    f"{KOHYA}.diff": "a full difference",
    f"transformer.{MODULE}.lora_A.weight": "(a transformer)",
    "lora_transformer_transformer_blocks_0_attn_to_k.lora_down.weight": "(a transformer)",
    "lora_unet_double_blocks_0_img_attn_proj.lora_down.weight": "(Flux)",
    "model.diffusion_model.input_blocks.0.0.weight": "a whole checkpoint",
    "conv_in.weight": "a UNet",
}


@pytest.mark.parametrize(("key", "kind"), KINDS.items())
def test_a_foreign_file_is_told_by_what_it_is(key, kind, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.ones(2, 2)}, path)
    with pytest.raises(RequestError) as caught:
        read_adapter(path)
    assert kind in caught.value.what.partition("it looks like")[2]


@pytest.mark.parametrize("key", [f"unet.{MODULE}.lora_E", f"{KOHYA}.lora_mid.weight"])
def test_an_ordinary_name_is_not_told_for_another_architecture(key, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({key: torch.ones(2, 2)}, path)
    with pytest.raises(RequestError) as caught:
        read_adapter(path)
    assert caught.value.what.endswith("0 of 1 keys.")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt", ".bin"])
def test_no_code_of_a_pickle_runs(suffix, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "trapped"), "w"))

    path = tmp_path / f"bad{suffix}"
    path.write_bytes(pickle.dumps(Trap(), protocol=4))
    for read in (read_adapter, inspect_adapter):
        with pytest.raises(RequestError, match="pickle"):
            read(path)
    assert not (tmp_path / "trapped").exists()


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x0580])
def test_a_sound_file_whose_length_looks_like_a_pickle_is_read(length, tmp_path):
    entries = {A: {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]}}
    entries |= {B: {"dtype": "F32", "shape": [8, 2], "data_offsets": [64, 128]}}
    path = tmp_path / "x.safetensors"
    raw(path, json.dumps(entries).ljust(length), bytes(128))
    assert path.read_bytes()[:2] == length.to_bytes(2, "little")
    assert len(read_adapter(path).layers) == 1


def test_metadata_that_are_null_are_none(tmp_path):
    """As safetensors reads them."""
    path = tmp_path / "x.safetensors"
    metadata_of(None)(path)
    assert load_file(path).keys() == good().keys()
    assert read_adapter(path).metadata == {} and inspect_adapter(path)["metadata"] == {"symdream": {}}


@pytest.mark.parametrize("nested", ["[" * 50_000, *('{"x": ' + "[" * n + "]" * n + "}" for n in (600, 900, 50_000))])
def test_our_metadata_of_many_brackets_are_none(tmp_path, nested):
    path = tmp_path / "x.safetensors"
    save_file(good(), path, {"symdream": nested})
    assert read_adapter(path).metadata == {} and inspect_adapter(path)["metadata"] == {"symdream": {}}


def test_a_missing_path_and_an_empty_folder_are_told(tmp_path):
    with pytest.raises(RequestError, match="There is no adapter at"):
        read_adapter(tmp_path / "none")
    with pytest.raises(RequestError, match="No adapter in"):
        read_adapter(tmp_path)
    (tmp_path / "config.toml").write_text("")
    with pytest.raises(RequestError, match="has no adapter yet") as told:
        read_adapter(tmp_path)
    assert told.value.fix == f"finish it: symdream train --resume {tmp_path}"
    run = RunFolder(tmp_path)
    run.acquire()
    with pytest.raises(RequestError) as told:
        read_adapter(tmp_path)
    run.release()
    assert told.value.fix == "wait: it is being trained"


def test_a_native_file_without_its_alpha_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({f"base_model.model.{MODULE}.singlora_A": torch.ones(2, 8)}, path)
    with pytest.raises(RequestError, match="does not tell its alpha"):
        read_adapter(path)
