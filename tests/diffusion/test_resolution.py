"""The size that is told of a base before it is loaded is the one that it has then."""

import json
import shutil

import pytest
from helpers.tiny_models import write_tiny_single_file

from symdream.diffusion.base import load_base
from symdream.diffusion.resolution import known_resolution


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_of_a_folder(family, request):
    folder = str(request.getfixturevalue(f"tiny_{family}"))
    assert known_resolution(folder) == load_base(folder).resolution


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_of_a_file(family, tmp_path):
    file = str(write_tiny_single_file(tmp_path / f"{family}.safetensors", family))
    assert known_resolution(file) == load_base(file).resolution


def test_where_nothing_tells_it_nothing_is_told(tiny_sd1, tmp_path):
    of_two_sizes = write_tiny_single_file(tmp_path / "sd2.safetensors", "sd2")
    folder = shutil.copytree(tiny_sd1, tmp_path / "base")
    config = folder / "unet" / "config.json"
    told = json.loads(config.read_text())
    for side in ([64, 96], None):
        config.write_text(json.dumps({**told, "sample_size": side}))
        assert known_resolution(str(folder)) is None
    (tmp_path / "empty").mkdir()
    for name in (of_two_sizes, tmp_path / "empty", tmp_path / "gone", "owner/name", "no base", "pickle.ckpt", ""):
        assert known_resolution(str(name)) is None
