"""Grids by name: what `symdream compare --preset` starts from; flags and a TOML file narrow or change them."""

from __future__ import annotations

from typing import Any

METHODS = ["lora", "lora+", "dora", "singlora", "symlora"]

PRESETS: dict[str, dict[str, Any]] = {
    # The machinery in a minute or two: its scores mean nothing.
    "smoke": {
        "methods": ["lora", "singlora"],
        "ranks": [4],
        "subjects": ["fox"],
        "training_seeds": [0],
        "image_seeds": [0],
        "prompts_per_subject": 2,
        "steps": 4,
        "batch_size": 1,
        "points": 2,
        "sampling_steps": 2,
        "drift_pictures": 1,
        "tune": False,
    },
    # 196 cells of 26 pictures, each about 100 seconds of one CPU core.
    "sprite": {
        "methods": METHODS,
        "ranks": [8],
        "match": "both",
        "training_seeds": [0, 1],
        "image_seeds": [0, 1],
        "prompts_per_subject": 4,
        "steps": 120,
        "batch_size": 2,
        "points": 3,
        "sampling_steps": 6,
        "drift_pictures": 2,
    },
    # DreamBooth's protocol: 25 prompts, 4 images each, 30 subjects; the training is SingLoRA's (arXiv:2507.05566,
    # section 6.2). Rates are the table's unless tuning is asked for: it would use up two of the subjects.
    "dreambooth": {
        "base": "sd15",
        "layout": "dreambooth",
        "methods": METHODS,
        "ranks": [8],
        "match": "both",
        "training_seeds": [0],
        "image_seeds": [0, 1, 2, 3],
        "steps": 400,
        "batch_size": 1,
        "points": 4,
        "only_last_in_full": True,
        "tune": False,
        "tuning_subjects": ["can", "dog8"],
        "train": {"targets": "qk", "components": "unet"},
    },
}
