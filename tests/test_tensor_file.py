"""safetensors files that others may read, the same bytes for the same content."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from symdream.diffusion.headers import read_header
from symdream.tensor_file import save_tensors


@given(st.dictionaries(st.text(), st.text()))
def test_any_texts_go_into_a_header_and_come_out_in_order(texts):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_tensors({"x": torch.arange(3.0), "é": torch.ones(2, dtype=torch.float16)}, path, texts)
        with safe_open(path, "pt") as opened:
            assert opened.metadata() == texts
        assert torch.equal(load_file(path)["x"], torch.arange(3.0))
        assert list(read_header(path).metadata) == sorted(texts)


@pytest.mark.parametrize("texts", [None, {}, {"a": "b"}])
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_file_is_as_readable_as_the_users_umask_says(tmp_path, texts, umask, mode):
    before = os.umask(umask)
    try:
        save_tensors({"x": torch.arange(3.0)}, tmp_path / "x.safetensors", texts)
    finally:
        os.umask(before)
    assert (tmp_path / "x.safetensors").stat().st_mode & 0o777 == mode
