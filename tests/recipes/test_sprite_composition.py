"""What the recipe composes: captions and pictures that say the same, and nothing that is held out."""

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from recipes.sprite.art import read_art
from recipes.sprite.compose import FILLED, Composer
from recipes.sprite.language import COLOURS, PATTERNS, STYLES, caption, held_out_icons, tones, training_icons
from recipes.sprite.parts import load_tokenizer
from symdream.errors import RequestError

ROOT = Path(__file__).parents[2]
TOY = Path(__file__).parent / "toy.safetensors"


@pytest.fixture(scope="module")
def art():
    return read_art(TOY)


@pytest.fixture(scope="module")
def composer(art):
    return Composer(art.where(held_out=False), load_tokenizer())


def draw(composer, count, seed=0, **options):
    return composer.draw(count, generator=torch.Generator().manual_seed(seed), **options)


def test_the_toy_art_is_small_complete_and_tells_its_licences(art):
    assert TOY.stat().st_size < 400_000
    assert {(s.style, s.licence) for s in art.sprites} == {
        ("3d render", "MIT"),
        ("glossy icon", "MIT"),
        ("flat icon", "MIT"),
        ("cartoon emoji", "Apache-2.0"),
        ("simple emoji", "CC-BY-4.0"),
    }
    assert len(art.sprites) == 5 * len(art.things)
    alpha = art.pixels[:, 3].float() / 255
    assert (alpha.amax((1, 2)) == 1).all()
    assert (alpha.mean((1, 2)) > 0.05).all()
    licences = (TOY.parent / "LICENSES.md").read_text(encoding="utf-8")
    assert all(word in licences for word in ("Fluent Emoji", "Noto Emoji", "Twemoji", "MIT", "Apache", "CC BY 4.0"))


def test_a_file_that_is_no_art_is_told_with_the_command_that_makes_it(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(RequestError, match="data.py"):
        read_art(tmp_path / "x.safetensors")


def test_the_lists_are_disjoint_and_hold_out_every_sample_subject():
    training, held_out = training_icons(), held_out_icons()
    assert 420 <= len(training) <= 440
    assert not set(training) & set(held_out)
    assert not set(training.values()) & set(held_out.values())
    subjects = {path.parent.name.replace("_", " ") for path in (ROOT / "sample_data").glob("*/prompts.toml")}
    assert subjects <= set(held_out.values()) | {"t rex"}
    more = {"penguin", "octopus", "unicorn", "cactus", "guitar", "dragon", "lion", "hamster"}
    assert more <= set(held_out.values())


def test_class_nouns_of_the_samples_are_words_of_the_language():
    words = {word for name in training_icons().values() for word in name.split()}
    for path in (ROOT / "sample_data").glob("*/prompts.toml"):
        noun = tomllib.loads(path.read_text(encoding="utf-8"))["class_noun"]
        # "man" is of things that people are; the list of concrete things has no people.
        assert noun in words or noun == "man", f"{path.parent.name}: {noun}"


def test_nothing_held_out_reaches_a_composer_of_the_training_art(art, composer):
    held_out = art.where(held_out=True)
    assert held_out.things == ["fox", "robot", "teapot"]
    assert not set(held_out.things) & set(composer.things)
    assert composer.levels.shape[1] == len(art.sprites) - len(held_out.sprites)


def test_tokens_of_the_device_are_the_tokenizers_of_the_caption(composer):
    scene = draw(composer, 300, two=0.4, unsaid=0.3)
    captions = composer.captions(scene)
    wanted = load_tokenizer()(captions, padding="max_length", max_length=77, return_tensors="pt").input_ids
    assert torch.equal(composer.token_ids(scene), wanted)
    assert any(" and a " in text for text in captions)
    assert any("background" not in text for text in captions)
    assert any(not text.startswith(tuple(f"a {style} of" for style in STYLES)) for text in captions)


def test_captions_have_the_form_of_the_language():
    assert caption("flat icon", ["cow"], ("red", "plain")) == "a flat icon of a cow on a red background"
    told = caption("3d render", ["cow", "bus"], ("navy", "dotted"))
    assert told == "a 3d render of a cow and a bus on a dotted navy background"
    assert caption(None, ["cow"], None) == "a cow"


def grounds(composer, scene):
    """The pictures without their things, (B, 3, 128, 128) from 0 to 1."""
    return (composer.render(replace(scene, scale=torch.full_like(scene.scale, 1e-6))) + 1) / 2


def test_background_pixels_have_the_captions_colour_and_no_others(composer):
    scene = draw(composer, 64)
    pixels = grounds(composer, scene).flatten(2)[..., ::11].transpose(1, 2)  # (B, P, 3)
    first, second = tones()[:, 0], tones()[:, 1]
    # Distance to the segment between a colour's two tones, for every colour.
    along = second - first
    where = torch.einsum("bpc,kc->bpk", pixels, along) - (first * along).sum(-1)
    where = (where / along.square().sum(-1)).clamp(0, 1)
    nearest = first + where[..., None] * along
    distance = (pixels[:, :, None] - nearest).norm(dim=-1).mean(1)  # (B, 13)
    assert (distance.gather(1, scene.colour[:, None]) < 0.05).all()
    plain = scene.pattern == 0
    assert plain.any()
    assert torch.equal(distance[plain].argmin(1), scene.colour[plain])
    patterned = (distance.argmin(1) == scene.colour)[~plain].float().mean()
    assert patterned > 0.9  # second tones of neighbours (black, gray) may touch


def test_backgrounds_have_the_captions_pattern(composer):
    scene = draw(composer, 64, seed=1)
    gray = grounds(composer, scene).mean(1)
    smooth = torch.nn.functional.avg_pool2d(gray, 3, 1)  # differences along x and y lie half a pixel apart
    dy, dx = smooth.diff(dim=1)[:, :, :-1], smooth.diff(dim=2)[:, :-1]
    tensor = torch.stack([(dx * dx), (dx * dy), (dx * dy), (dy * dy)], -1).mean((1, 2)).view(-1, 2, 2)
    low, high = torch.linalg.eigvalsh(tensor).unbind(-1)
    ends = gray.flatten(1).sort().values
    distance = (ends[:, -1] - ends[:, 0]).clamp(min=1e-3)
    ground = grounds(composer, replace(scene, pattern=torch.zeros_like(scene.pattern))).mean((1, 2, 3))
    marked = (gray - ground[:, None, None]).abs().mean((1, 2)) / distance  # the part in the second tone
    for pattern, of in zip(PATTERNS, (scene.pattern == i for i in range(4)), strict=True):
        assert of.any()
        if pattern == "plain":
            assert (high[of] < 1e-8).all()
        elif pattern == "striped":  # edges of one direction only
            assert (low[of] < 0.2 * high[of]).all()
            assert ((marked[of] - 0.5).abs() < 0.1).all()
        elif pattern == "checkered":
            assert (low[of] > 0.5 * high[of]).all()
            assert ((marked[of] - 0.5).abs() < 0.1).all()
        else:
            assert (low[of] > 0.5 * high[of]).all()
            assert ((marked[of] - math.pi * 0.2**2 * 2).abs() < 0.05).all()


def placed(pixels: torch.Tensor, scene, row: int) -> np.ndarray:
    """The first thing of a scene as Pillow puts it onto an empty picture: RGBA (128, 128, 4) from 0 to 1."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy(), "RGBA")
    if scene.flip[row, 0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    # Pillow turns anticlockwise, the scene clockwise (its y points down).
    image = image.rotate(-math.degrees(scene.angle[row, 0]), Image.Resampling.BICUBIC, expand=True)
    ratio = scene.scale[row, 0].item() / FILLED
    image = image.resize([max(1, round(side * ratio)) for side in image.size], Image.Resampling.LANCZOS)
    layer = Image.new("RGBA", (128, 128))
    x, y = ((scene.centre[row, 0] + 1) / 2 * 128).tolist()
    layer.paste(image, (round(x - image.width / 2), round(y - image.height / 2)))
    return np.asarray(layer, dtype=np.float32) / 255


def test_the_sprite_that_the_caption_names_is_the_one_that_matches_the_picture(art, composer):
    seen = art.where(held_out=False)
    scene = draw(composer, 8, seed=2, two=0).said_in_full()
    pictures = ((composer.render(scene) + 1) / 2).permute(0, 2, 3, 1).numpy()
    ground = grounds(composer, scene).permute(0, 2, 3, 1).numpy()
    for row, told in enumerate(composer.captions(scene)):
        errors = []
        for pixels in seen.pixels:
            layer = placed(pixels, scene, row)
            expected = ground[row] * (1 - layer[..., 3:]) + layer[..., :3] * layer[..., 3:]
            errors.append(np.abs(expected - pictures[row]).mean())
        best = seen.sprites[int(np.argmin(errors))]
        assert f"a {best.style} of a {best.thing} on" in told
        assert min(errors) < 0.02


def test_two_things_lie_beside_each_other_and_the_second_is_the_captions(composer):
    scene = draw(composer, 32, seed=3, two=1).said_in_full()
    both = composer.render(scene)
    alone = composer.render(replace(scene, things=torch.stack([scene.things[:, 0], -torch.ones(32).long()], 1)))
    swapped = replace(scene, things=scene.things.flip(1), scale=scene.scale.flip(1), centre=scene.centre.flip(1),
                      angle=scene.angle.flip(1), flip=scene.flip.flip(1))  # fmt: skip
    assert (both - alone).abs().mean() > 0.05
    assert (scene.things[:, 0] != scene.things[:, 1]).all()
    # They hardly overlap, so that the order in which they are drawn is all but invisible.
    assert (composer.render(swapped) - both).abs().mean() < 0.01


def test_a_seed_gives_the_same_pictures(composer):
    first, again, other = (composer.render(draw(composer, 4, seed=seed)) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.min() >= -1 and first.max() <= 1


def test_the_colours_are_the_measured_ones():
    assert len(COLOURS) == 13
    assert tones().shape == (13, 2, 3)
    assert torch.allclose(tones()[COLOURS.index("red"), 0] * 255, torch.tensor([214.0, 18.0, 50.0]))
