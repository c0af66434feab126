"""Folders of small subjects and grids over a tiny base, scored by the embedded encoders."""

from __future__ import annotations

from pathlib import Path

from helpers.runs import make_photos
from PIL import Image

PROMPTS = """class_noun = "{noun}"
tuning = {tuning}

[[prompt]]
text = "a {{subject}} on a red background"
held_out = true
ideal = "ideal/00.png"

[[prompt]]
text = "a {{subject}} on a blue background"
held_out = true

[[prompt]]
text = "a {{subject}} on a green background"
held_out = false
"""


def make_subjects(folder: Path) -> Path:
    """Three subjects: alpha and beta to compare on, gamma to tune on; each photo differs from every other."""
    for number, (name, noun) in enumerate((("alpha", "toy"), ("beta", "toy"), ("gamma", "cup"))):
        place = folder / name
        make_photos(place, count=3, size=(80 + 8 * number, 64))
        (place / "ideal").mkdir()
        Image.open(place / "00.png").save(place / "ideal" / "00.png")
        (place / "prompts.toml").write_text(PROMPTS.format(noun=noun, tuning=str(name == "gamma").lower()))
    return folder


def tiny_grid(base: Path, data: Path, **changes) -> dict:
    """Flags of a grid of two arms, two subjects and one seed, which takes seconds on a tiny base."""
    return {
        "base": str(base), "data": data, "methods": ["lora", "singlora"], "ranks": [2], "training_seeds": [0],
        "image_seeds": [0, 1], "prompts_per_subject": 2, "steps": 4, "batch_size": 1, "points": 2,
        "sampling_steps": 1, "drift_pictures": 1, "tune": False, "dino": "sprite", "clip": "sprite", "device": "cpu",
        **changes,
    }  # fmt: skip
