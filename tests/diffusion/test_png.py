"""What a PNG says of how it was made, to symdream and to readers of A1111's line."""

import json
import re

import pytest
from PIL import Image

from symdream.diffusion.png import read_settings, save_png

DRAWN = {
    "prompt": "a sks toy, red", "negative_prompt": "blur: much, \"x\"", "seed": 7, "steps": 20, "guidance": 5.5,
    "sampler": "ddim", "width": 64, "height": 96, "base": "sprite",
}  # fmt: skip


def a1111(text):
    """The last line's pairs by A1111's grammar: a value is a JSON string, or goes to the next comma."""
    pairs = re.findall(r"\s*([\w ]+):\s*(\"(?:\\.|[^\\\"])+\"|[^,]*)(?:,|$)", text.split("\n")[-1])
    return {name: json.loads(value) if value.startswith('"') else value for name, value in pairs}


def written(tmp_path, **settings):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (64, 96)), path, DRAWN | settings)
    assert read_settings(path) == DRAWN | settings
    return Image.open(path).text["parameters"]


@pytest.mark.parametrize("base", ["sprite", "folder:my base, v2", 'folder:a "b", Seed: 1', "owner/name@abc", "a\nb\\c"])
def test_a_reader_of_a1111s_line_finds_the_settings_whatever_the_base_is_called(tmp_path, base):
    text = written(tmp_path, base=base)
    assert text.split("\n")[:-1] == ["a sks toy, red", 'Negative prompt: blur: much, "x"']
    assert a1111(text) == {
        "Steps": "20", "Sampler": "ddim", "CFG scale": "5.5", "Seed": "7", "Size": "64x96", "Model": base,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"adapter": "owl", "weight": 0.75}, "owl: 0.75"),
        ({"adapters": [{"name": "owl", "weight": 1.0}, {"name": "a, b", "weight": -0.5}]}, "owl: 1, a, b: -0.5"),
        ({"adapter": "owl", "weight": 0.5, "adapters": [{"name": "owl", "weight": 0.5}]}, "owl: 0.5"),
        ({"adapter": None}, None),
        ({"adapters": []}, None),
    ],
)
def test_the_line_tells_the_adapters_and_their_weights(tmp_path, settings, told):
    assert a1111(written(tmp_path, **settings)).get("Adapters") == told
