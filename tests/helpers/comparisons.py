"""Results of grids that never ran, with known truth: for statistics and report."""

from __future__ import annotations

import numpy as np

METHODS = {"lora": "LoRA", "lora+": "LoRA+", "dora": "DoRA", "singlora": "SingLoRA", "symlora": "SymLoRA"}
CHECKPOINTS = (40, 80, 120)


def simulated(
    effects: dict[str, float] | None = None,
    *,
    subjects: int = 14,
    seeds: int = 2,
    prompts: int = 4,
    image_seeds: int = 2,
    methods=tuple(METHODS),
    noise: float = 0.05,
    spread: float = 0.1,
    depth: dict[str, float] | None = None,
    random: int = 0,
    match: str = "both",
    pictures: bool = True,
):
    """(content, rows) of results.json and scores.csv; no rows where not `pictures`.

    Every run walks from the base (CLIP-T .8, DINO -.2) down to CLIP-T .8 - depth, its DINO on the straight line
    -.2 + spread of the subject + (.8 - CLIP-T) + effects[arm] · (.8 - CLIP-T) / .4, plus noise in each picture.
    With all depths .4 the true difference at matched CLIP-T is that of the effects.
    """
    draw = np.random.default_rng(random)
    effects, depth = effects or {}, depth or {}
    arms = [_arm(m, 8, "equal rank") for m in methods]
    if match == "both":
        arms += [_arm(m, 16, "equal parameters") for m in methods if m in ("singlora", "symlora")]
    names = [f"subject-{i:02d}" for i in range(subjects)]
    texts = [f"a {{subject}} on background {i}" for i in range(prompts)]
    ease = dict(zip(names, draw.normal(0, spread, subjects), strict=True))
    cells, rows = [], []
    references = {
        name: {
            "base": {"dino": -0.2 + ease[name], "clip_i": 0.3, "clip_t": 0.8, "dino_foreground": -0.1,
                     "dino_matched": -0.3, "memorised": 0.0},
            "ceiling": {"dino": 0.8 + ease[name], "clip_i": 0.7, "clip_t": 0.7, "dino_foreground": 0.9,
                        "dino_matched": None, "memorised": 0.5},
            "real": {"dino": 0.85, "clip_i": 0.75},
        }
        for name in names
    }  # fmt: skip
    for seed in range(seeds):
        for name in names:
            for arm in arms:
                points = []
                for number, step in enumerate(CHECKPOINTS, 1):
                    down = depth.get(arm["id"], 0.4) * number / len(CHECKPOINTS)
                    truth = -0.2 + ease[name] + down + effects.get(arm["id"], 0.0) * down / 0.4
                    dino = truth + draw.normal(0, noise, (prompts, image_seeds))
                    scores = {"dino": float(dino.mean()), "clip_i": 0.5, "clip_t": 0.8 - down, "dino_foreground": 0.3,
                              "dino_matched": 0.2, "memorised": 0.0, "diversity": 0.4,
                              "drift": 0.9 if number == len(CHECKPOINTS) else None}  # fmt: skip
                    points.append({"step": step, "images": prompts * image_seeds, "scores": scores})
                    rows += [
                        {"cell": f"{arm['id']}-{name}-s{seed}", "arm": arm["id"], "method": arm["method"],
                         "rank": arm["rank"], "subject": name, "training_seed": seed, "step": step, "prompt": text,
                         "image_seed": i, "dino": float(dino[p, i]), "clip_i": 0.5, "clip_t": 0.8 - down,
                         "nearest_photo": "00.png", "memorised": 0, "nearest_cosine": 0.5, "dino_foreground": 0.3,
                         "dino_matched": 0.2}
                        for p, text in enumerate(texts)
                        for i in range(image_seeds)
                        if pictures
                    ]  # fmt: skip
                cells.append(_cell(arm, name, seed, points, draw))
    grid = {
        "name": "simulated",
        "base": {"name": "sprite", "identity": "sprite", "hash": "0" * 64},
        "arms": arms,
        "subjects": names,
        "tuning_subjects": ["owl", "cupcake"],
        "training_seeds": list(range(seeds)),
        "image_seeds": list(range(image_seeds)),
        "prompts": dict.fromkeys(names, texts),
        "steps": CHECKPOINTS[-1],
        "batch_size": 2,
        "checkpoints": list(CHECKPOINTS),
        "sampling": {"sampler": "dpm++", "steps": 6, "guidance": 4.0},
        "match": match,
        "tuned": True,
        "margin_fraction": 0.02,
        "primary": {
            "method": "singlora",
            "against": ["lora", "lora+", "dora", "symlora"],
            "endpoint": "dino at matched clip_t",
        },
        "protocol": "0123456789abcdef",
        "config": {},
    }
    content = {
        "format": 1, "symdream": "0.1.0", "complete": True, "created": "2026-01-01T00:00:00+00:00", "grid": grid,
        "notes": [], "environment": {"device": "cpu", "cpu_cores": 2, "python": "3.11", "packages": {},
                                     "symdream": "0.1.0"},
        "encoders": {
            name: {"id": f"sprite-{name}", "hash": "1" * 64, "preprocessing": {"resize": 128, "crop": 128},
                   "provenance": {}}
            for name in ("dino", "clip")
        },
        "instrument": {
            "dino": {"auc": 0.994, "auc_class": 0.98, "mean_same": 0.87, "mean_other": 0.08, "pairs_same": 576,
                     "pairs_other": 2160, "enough": True},
            "clip_i": {"auc": 0.55, "auc_class": 0.8, "mean_same": 0.55, "mean_other": 0.49, "pairs_same": 576,
                       "pairs_other": 2160, "enough": False},
            "backgrounds_swapped": True, "cutout_iou": 0.95,
        },
        "tuning": [trial for arm in arms for trial in _trials(arm, draw)],
        "settings": {arm["id"]: {"lr": 1e-3, "text_encoder_lr": 1e-3, "alpha": float(arm["rank"])} for arm in arms},
        "references": references, "analysis": {}, "paired": [], "cells": cells,
    }  # fmt: skip
    return content, rows


def unfinish(content, rows, *ids, status="missing", error=None):
    """The same results with these cells missing or failed."""
    cells = [
        c | {"status": status, "error": error, "points": [], "spectrum": [], "parameters": None, "seconds": None,
             "seconds_per_step": None}
        if c["id"] in ids
        else c
        for c in content["cells"]
    ]  # fmt: skip
    return content | {"cells": cells, "complete": False}, [row for row in rows if row["cell"] not in ids]


def _arm(method, rank, role):
    half = 0.53 if method in ("singlora", "symlora") else 1.0
    return {"id": f"{method.replace('+', 'plus')}-r{rank}", "method": method, "rank": rank,
            "label": f"{METHODS[method]} r{rank}", "role": role,
            "parameters": int(354_304 * half * rank / 8)}  # fmt: skip


def _cell(arm, name, seed, points, draw):
    layers = [
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn2.to_v",
    ]
    values = np.sort(draw.exponential(1, (len(layers), arm["rank"])), axis=1)[:, ::-1].round(4).tolist()
    spectrum = [
        {"component": "unet", "layer": layer, "shape": [64, 64 if "attn1" in layer else 256], "singular_values": value,
         "eigen_negative_share": (0.0 if arm["method"] == "singlora" else 0.4) if "attn1" in layer else None,
         "effective_rank": 5.5,
         **({"lambda": [v * (-1) ** i for i, v in enumerate(value)]} if arm["method"] == "symlora" else {})}
        for layer, value in zip(layers, values, strict=True)
    ]  # fmt: skip
    return {
        "id": f"{arm['id']}-{name}-s{seed}", "key": "k", "arm": arm["id"], "method": arm["method"],
        "rank": arm["rank"], "subject": name, "seed": seed,
        "settings": {"lr": 1e-3, "text_encoder_lr": 1e-3, "alpha": 8.0}, "status": "finished", "error": None,
        "parameters": arm["parameters"], "seconds": 100.0, "seconds_trained": 60.0, "seconds_per_step": 0.5,
        "points": points, "spectrum": spectrum if seed == 0 else [],
    }  # fmt: skip


def _trials(arm, draw):
    return [
        {"arm": arm["id"], "lr": lr, "text_encoder_lr": lr, "alpha": float(arm["rank"]), "subject": subject,
         "seed": 90_000, "scores": {"dino": 0.1, "clip_t": 0.6}, "error": None, "objective": objective,
         "clip_t_floor": 0.4, "chosen": lr == 1e-3}
        for lr, objective in ((3.16e-4, 0.1), (1e-3, 0.3 + float(draw.normal(0, 0.02))), (3.16e-3, -1.1))
        for subject in ("owl", "cupcake")
    ]  # fmt: skip
