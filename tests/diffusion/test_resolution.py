"""The size that is told of a base before it is loaded is the one that it has then."""

import json
import shutil

import pytest
from helpers.tiny_models import write_tiny_single_file

from symdream.diffusion.base import load_base
from symdream.diffusion.names import ALIASES
from symdream.diffusion.resolution import LARGEST, known_resolution


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_of_a_folder(family, request):
    folder = str(request.getfixturevalue(f"tiny_{family}"))
    assert known_resolution(folder) == load_base(folder).resolution


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_of_a_file(family, tmp_path):
    file = str(write_tiny_single_file(tmp_path / f"{family}.safetensors", family))
    assert known_resolution(file) == load_base(file).resolution


@pytest.mark.parametrize("alias", ALIASES)
def test_of_the_hub_id_that_an_alias_stands_for(alias):
    side = known_resolution(alias)
    assert side and known_resolution(ALIASES[alias]) == known_resolution(f"{ALIASES[alias]}@main") == side


def write_configs(folder, unet, vae):
    for part, text in (("unet", unet), ("vae", vae)):
        (folder / part).mkdir()
        (folder / part / "config.json").write_text(text)
    return str(folder)


FOUR = '{"block_out_channels": [1, 2, 3, 4]}'


@pytest.mark.parametrize("told", ["64", "[64, 64]"])
def test_of_configs_alone(tmp_path, told):
    assert known_resolution(write_configs(tmp_path, f'{{"sample_size": {told}}}', FOUR)) == 512


NONSENSE = [
    *("0", "-8", '"6"', '"64"', "64.0", "[64.5, 64.5]", "[64.0, 64]", "NaN", "[NaN, NaN]", "true", "null", "[]", "{}"),
    *("[[64], [64]]", "[-8, -8]", str(LARGEST // 8 + 1), str(10**7), "1" + "0" * 5000, "[" * 10**5),
]


@pytest.mark.parametrize("told", NONSENSE, ids=lambda told: told[:20])
def test_nonsense_in_a_config_tells_nothing(tmp_path, told):
    assert known_resolution(write_configs(tmp_path, f'{{"sample_size": {told}}}', FOUR)) is None


@pytest.mark.parametrize(
    "told", ["[]", "7", "null", '{"block_out_channels": 4}', f'{{"block_out_channels": {[1] * 2000}}}']
)
def test_nonsense_in_the_config_of_the_vae_tells_nothing(tmp_path, told):
    assert known_resolution(write_configs(tmp_path, '{"sample_size": 64}', told)) is None


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
