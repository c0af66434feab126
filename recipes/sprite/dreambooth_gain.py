"""What score.py says of a base as something to adapt: how much nearer to the photos its pictures come by a training."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from symdream import settings
from symdream.data.captions import fill
from symdream.data.images import read_folder
from symdream.diffusion.base import Base
from symdream.diffusion.detach import detach
from symdream.diffusion.sampling import sample
from symdream.metrics.encoders import DinoEncoder
from symdream.metrics.prompts import read_prompts
from symdream.metrics.scores import dino_score
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training

SAMPLES = Path(__file__).resolve().parents[2] / "sample_data"
SUBJECTS = ("fox", "teapot", "robot")  # of those for reporting: no setting was chosen on them
TEMPLATE = "a 3d render of a {subject}"


def gain(base: Base, judge: DinoEncoder, steps: int, seed: int, subjects: Sequence[str] = SUBJECTS) -> dict[str, float]:
    """DINO of the held-out prompts' pictures against the photos: before, after a default training of `steps`, and the
    difference, each the mean over the subjects. `base` is left without an adapter."""
    before, after = [], []
    for subject in subjects:
        folder = SAMPLES / subject
        asked = read_prompts(folder / "prompts.toml")
        prompts = [fill(p.text, trigger="sks", class_noun=asked.class_noun) for p in asked.held_out().prompts]
        photos = judge.images(list(read_folder(folder).images.values()))

        def score(prompts=prompts, photos=photos) -> float:
            return dino_score(judge.images(sample(base, prompts, [seed + i for i in range(len(prompts))])), photos)

        before.append(score())
        flags = {"images": folder, "class_noun": asked.class_noun, "template": TEMPLATE, "steps": steps, "seed": seed}
        flags |= {"checkpoint_every": 0, "tensorboard": False, "device": base.device.type}
        with tempfile.TemporaryDirectory() as temporary:
            run = RunFolder.create(Path(temporary) / subject)
            run_training(run, settings.build(settings.merge({}, flags)), base=base)
        after.append(score())
        detach(base)
    first, last = sum(before) / len(before), sum(after) / len(after)
    return {"before": first, "after": last, "gain": last - first}
