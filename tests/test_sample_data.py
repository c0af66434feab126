"""The sample subjects: complete, small, honest about what was held out, and made by the script in recipes/."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from runpy import run_path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from symdream.metrics.prompts import read_prompts

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_data"
SUBJECTS = sorted(path.parent.name for path in SAMPLES.glob("*/prompts.toml"))
SCRIPT = ROOT / "recipes" / "subjects" / "compose.py"
FIVE = [f"{i:02d}.png" for i in range(5)]
each_subject = pytest.mark.parametrize("subject", SUBJECTS)


def table(subject: str, folder: Path = SAMPLES) -> dict:
    return tomllib.loads((folder / subject / "prompts.toml").read_text(encoding="utf-8"))


def background(text: str) -> tuple[str, str]:
    """(colour, pattern) that a prompt asks for."""
    pattern, colour = re.fullmatch(
        r"a 3d render of a \{subject\} on a (?:(striped|checkered|dotted) )?(\w+) background", text
    ).groups()
    return colour, pattern or "plain"


def backgrounds(prompts: list[dict], held_out: bool) -> list[tuple[str, str]]:
    return [background(p["text"]) for p in prompts if p["held_out"] is held_out]


def test_there_are_sixteen_subjects_under_five_megabytes_with_the_arts_licence():
    assert len(SUBJECTS) == 16
    assert sum(path.stat().st_size for path in SAMPLES.rglob("*") if path.is_file()) < 5_000_000
    licence = (SAMPLES / "LICENSE").read_text(encoding="utf-8")
    assert "Copyright (c) Microsoft Corporation" in licence and "Fluent Emoji" in licence


def test_two_subjects_are_for_tuning_and_the_demos_owl_is_one():
    tuning = [subject for subject in SUBJECTS if table(subject)["tuning"]]
    assert len(tuning) == 2
    assert "owl" in tuning


@each_subject
def test_a_subject_has_five_photos_and_nothing_else_that_an_image_search_would_find(subject):
    assert sorted(path.name for path in (SAMPLES / subject).glob("*.*")) == [*FIVE, "prompts.toml"]
    for name in FIVE:
        with Image.open(SAMPLES / subject / name) as image:
            assert image.size == (256, 256)
            assert image.format == "PNG"
            assert not image.has_transparency_data


@each_subject
def test_photos_show_all_of_the_subject_on_five_different_backgrounds(subject):
    images = table(subject)["image"]
    assert [image["file"] for image in images] == FIVE
    assert len({(image["background"], image["pattern"]) for image in images}) == 5
    for image in images:
        mask = np.asarray(Image.open(SAMPLES / subject / "masks" / image["file"]))
        edges = (mask[0], mask[-1], mask[:, 0], mask[:, -1])
        assert mask.max() == 255 and not any(edge.any() for edge in edges)


@each_subject
def test_masks_are_the_cutout_where_the_table_says(subject):
    cutout = Image.open(SAMPLES / subject / "cutout" / "subject.png")
    for at in table(subject)["image"]:
        mask = Image.open(SAMPLES / subject / "masks" / at["file"])
        left, top, right, bottom = mask.getbbox()
        assert max(right - left, bottom - top) == pytest.approx(at["scale"] * 256, abs=2)
        assert (left + right) / 512 == pytest.approx(at["x"], abs=0.01)
        assert (top + bottom) / 512 == pytest.approx(at["y"], abs=0.01)
        turned = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if at["flip"] else cutout
        alpha = turned.rotate(at["angle"], expand=True).getchannel("A")
        expected = alpha.crop(alpha.getbbox()).resize((right - left, bottom - top))
        assert np.abs(np.asarray(expected, float) - np.asarray(mask.crop(mask.getbbox()), float)).mean() < 6


@each_subject
def test_six_prompts_are_held_out_and_each_has_its_ideal_picture(subject):
    prompts = read_prompts(SAMPLES / subject / "prompts.toml")
    held_out = prompts.held_out().prompts
    assert len(held_out) == 6 and len(prompts.prompts) > 6
    assert len({prompt.ideal for prompt in held_out}) == 6
    for prompt in held_out:
        with Image.open(prompt.ideal) as image:
            assert image.size == (256, 256)


@each_subject
def test_photos_held_out_and_selection_prompts_share_no_background(subject):
    content = table(subject)
    trained = {(image["background"], image["pattern"]) for image in content["image"]}
    held_out, selection = (backgrounds(content["prompt"], held_out) for held_out in (True, False))
    assert len(set(held_out)) == 6
    assert not trained & set(held_out)
    assert not set(selection) & (trained | set(held_out))


@each_subject
def test_pictures_have_the_background_that_their_words_say(subject):
    colours = run_path(str(SCRIPT.parent / "backgrounds.py"))["COLOURS"]
    content = table(subject)
    told = [(SAMPLES / subject / i["file"], i["background"]) for i in content["image"]]
    told += [(SAMPLES / subject / p["ideal"], background(p["text"])[0]) for p in content["prompt"] if p["held_out"]]
    for path, colour in told:
        picture = np.asarray(Image.open(path).convert("RGB"), dtype=float)
        inside = np.zeros((256, 256), dtype=bool)
        inside[16:-16, 16:-16] = True
        wrong = np.abs(picture[~inside] - colours[colour]).max(axis=1) > 12
        assert wrong.mean() < 0.75, f"{path.name} should be {colour}"


@pytest.mark.slow
def test_every_word_of_a_class_noun_and_a_prompt_is_in_the_bases_language():
    from symdream.diffusion.base import load_base

    base = load_base("sprite")
    lengths = base.text_encoder.get_input_embeddings().weight.detach().norm(dim=1)
    unused = lengths[base.tokenizer.convert_tokens_to_ids("sks</w>")]  # no caption ever had it
    for subject in SUBJECTS:
        content = table(subject)
        for text in (content["class_noun"], *(p["text"].replace("{subject}", "") for p in content["prompt"])):
            tokens = base.tokenizer.tokenize(text)
            assert len(tokens) <= len(text.split()) + 1, f"{text}: {tokens}"
            assert all(length > unused for length in lengths[base.tokenizer.convert_tokens_to_ids(tokens)]), text


@pytest.fixture(scope="module")
def art(tmp_path_factory):
    """A folder of art with one drawing: a disk with a nose, so that mirroring shows."""
    folder = tmp_path_factory.mktemp("art")
    image = Image.new("RGBA", (256, 256))
    draw = ImageDraw.Draw(image)
    draw.ellipse((60, 40, 200, 240), fill=(200, 140, 60, 255))
    draw.polygon([(190, 120), (240, 140), (190, 160)], fill=(40, 40, 200, 255))
    image.save(folder / "1f989.webp", lossless=True)
    return folder


def compose(art: Path, out: Path, *names: str) -> subprocess.CompletedProcess:
    command = [sys.executable, SCRIPT, "--art", art, "--out", out, "--only", *names]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_composing_twice_gives_the_same_bytes_and_the_choices_of_the_committed_owl(art, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    for out in (first, again):
        assert compose(art, out, "owl").returncode == 0
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 5 + 5 + 6 + 1 + 1
    assert all((first / file).read_bytes() == (again / file).read_bytes() for file in files)
    assert table("owl", first) == table("owl")


def test_missing_art_is_named_and_nothing_is_written(art, tmp_path):
    done = compose(art, tmp_path / "out", "owl", "fox")
    assert done.returncode != 0
    assert "1f98a.webp" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
