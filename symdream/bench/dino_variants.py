"""What "DINO" may mean: six readings of one model on one set of pictures, since papers do not always say which.

SingLoRA's table (arXiv:2507.05566) has DINO about .14 to .15, DreamBooth's own .668: no score can be compared with
either before it is known which reading gives it. All are the mean cosine over generated × reference pairs:

    [CLS], last layer            after the final layer norm: DreamBooth's, and the one that symdream reports
    [CLS], no final layer norm   the last block's output
    [CLS], middle layer          the output of the block half way up
    patches' mean, last layer    after the final layer norm, without [CLS]
    [CLS], input in [0, 1]       the pixels not normalised by mean and standard deviation
    [CLS], centred               minus the mean embedding of all reference photos: cosines then spread around 0
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from symdream.bench.results import read_results
from symdream.bench.subjects import BenchSubject
from symdream.bench.wording import listing
from symdream.data.images import read_folder
from symdream.errors import RequestError
from symdream.metrics.encoders import DinoEncoder
from symdream.metrics.scores import subject_fidelity

VARIANTS = (
    "[CLS], last layer",
    "[CLS], no final layer norm",
    "[CLS], middle layer",
    "patches' mean, last layer",
    "[CLS], input in [0, 1]",
    "[CLS], centred",
)
PAPER, NEAR = 0.14, 0.02


@torch.inference_mode()
def embed(encoder: DinoEncoder, images: Sequence[Image.Image]) -> dict[str, Tensor]:
    """[N, D] by variant, all but the centred one; N >= 1."""
    plain = replace(encoder.preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    found: dict[str, list[Tensor]] = {name: [] for name in VARIANTS[:-1]}
    model, device = encoder.model, next(encoder.model.parameters()).device
    for start in range(0, len(images), encoder.batch_size):
        batch = images[start : start + encoder.batch_size]
        pixels = encoder.preprocessing(batch).to(device)
        out = model(pixels, output_hidden_states=True, **options(encoder))
        states, last = out.hidden_states, out.last_hidden_state
        registers = getattr(model.config, "num_register_tokens", 0)
        rows = (
            last[:, 0],
            states[-1][:, 0],
            states[len(states) // 2][:, 0],
            last[:, 1 + registers :].mean(1),
            model(plain(batch).to(device), **options(encoder)).last_hidden_state[:, 0],
        )
        for name, row in zip(found, rows, strict=True):
            found[name].append(row.float().cpu())
    return {name: torch.cat(rows) for name, rows in found.items()}


def options(encoder: DinoEncoder) -> dict[str, bool]:
    """As the encoder's own `features`: a ViT of another size interpolates its positions."""
    small = encoder.model.config.model_type == "vit" and encoder.model.config.image_size != encoder.preprocessing.crop
    return {"interpolate_pos_encoding": True} if small else {}


def six_scores(
    encoder: DinoEncoder, sets: Sequence[tuple[Sequence[Image.Image], Sequence[Image.Image]]]
) -> dict[str, float]:
    """Every variant's mean over (generated, reference) sets of pictures."""
    generated = [embed(encoder, images) for images, _ in sets]
    references = [embed(encoder, images) for _, images in sets]
    scores = {
        name: fmean(subject_fidelity(g[name], r[name]) for g, r in zip(generated, references, strict=True))
        for name in VARIANTS[:-1]
    }
    first = VARIANTS[0]
    centre = torch.cat([r[first] for r in references]).mean(0)
    pairs = zip(generated, references, strict=True)
    scores[VARIANTS[-1]] = fmean(subject_fidelity(g[first] - centre, r[first] - centre) for g, r in pairs)
    return scores


def variants_of(folder: Path, encoder: DinoEncoder, subjects: dict[str, BenchSubject]) -> dict[str, Any]:
    """The six scores of a comparison's last pictures, arm by arm, and which lie near the paper's.

    Raises: RequestError if there are no pictures, or photos of a subject are no longer among `subjects`.
    """
    content = read_results(folder)
    if content is None:
        raise RequestError(f"No comparison in {folder}: it has no results.json.")
    compared = dict.fromkeys(cell["subject"] for cell in content["cells"] if cell["status"] == "finished")
    if missing := [name for name in compared if name not in subjects]:
        raise RequestError(
            f"The photos of {listing(missing)}, which {folder} compared on, are no longer in its folder of subjects.",
            fix="put them back",
        )
    arms: dict[str, list[tuple[list[Image.Image], list[Image.Image]]]] = {}
    for cell in content["cells"]:
        place = folder / "cells" / cell["id"] / "pictures" / f"step-{content['grid']['checkpoints'][-1]}"
        if cell["status"] == "finished" and place.is_dir():
            photos = list(subjects[cell["subject"]].photos().values())
            arms.setdefault(cell["arm"], []).append((list(read_folder(place).images.values()), photos))
    if not arms:
        raise RequestError(f"{folder} holds no pictures of finished cells.", fix="give the folder that the grid ran in")
    scores = {arm: six_scores(encoder, sets) for arm, sets in arms.items()}
    near = sorted({name for found in scores.values() for name, value in found.items() if abs(value - PAPER) <= NEAR})
    return {"encoder": encoder.provenance, "scores": scores, "near_the_paper": near, "paper": PAPER, "within": NEAR}
