"""Where the spread of scores comes from: subject, training seed, prompt, image seed.

Within a subject its prompts, training seeds and image seeds are fully crossed; none of them means the same for two
subjects (another prompt text, another run, another picture from the same noise), so all three are nested in it:

    y[s,t,p,i] = mean + S[s] + T[s,t] + P[s,p] + I[s,i] + e[s,t,p,i]

Components by equating mean squares with their expectations (Henderson's method 1 for balanced data):

    E MS(T) = var e + p i var T          E MS(P) = var e + t i var P          E MS(I) = var e + t p var I
    E MS(S) = var e + p i var T + t i var P + t p var I + t p i var S
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

COMPONENTS = ("subject", "training_seed", "prompt", "image_seed", "residual")


def components(values: np.ndarray) -> dict[str, float | None]:
    """Estimated variances by component; values (subjects, training seeds, prompts, image seeds).

    Unbiased, so an estimate may be negative where the truth is near 0. None where a component has a single level (its
    share is then part of "subject").
    """
    values = np.asarray(values, dtype=np.float64)
    s, t, p, i = values.shape
    subject = values.mean(axis=(1, 2, 3))
    sides = {"training_seed": (t, values.mean(axis=(2, 3))), "prompt": (p, values.mean(axis=(1, 3))),
             "image_seed": (i, values.mean(axis=(1, 2)))}  # fmt: skip
    fitted = subject[:, None, None, None] * np.ones_like(values)
    for axis, (_, means) in enumerate(sides.values(), 1):
        shape = [s, 1, 1, 1]
        shape[axis] = means.shape[1]
        fitted += (means - subject[:, None]).reshape(shape)
    freedom = s * (t * p * i - 1 - sum(count - 1 for count, _ in sides.values()))
    residual = float(((values - fitted) ** 2).sum() / freedom) if freedom else None
    found: dict[str, float | None] = dict.fromkeys(COMPONENTS)
    found["residual"] = residual
    of_subject = 0.0 if residual is None else residual
    for name, (count, means) in sides.items():
        if count < 2 or residual is None:
            continue
        each = t * p * i // count
        square = each * ((means - subject[:, None]) ** 2).sum() / (s * (count - 1))
        found[name] = float((square - residual) / each)
        of_subject += square - residual
    if s > 1:
        square = t * p * i * subject.var(ddof=1)
        found["subject"] = float((square - of_subject) / (t * p * i))
    return found


def cube(rows: Sequence[Mapping[str, Any]], score: str) -> tuple[list[str], np.ndarray] | None:
    """Subjects, and their scores (subjects, training seeds, prompts, image seeds), from lines of scores.csv of one arm.

    Only subjects with every training seed and picture that any of them has; None if there are none.
    """
    table: dict[str, dict[tuple[int, int, int], float]] = {}
    order: dict[str, dict[str, int]] = {}
    for row in rows:
        if row[score] is None:
            continue
        prompts = order.setdefault(row["subject"], {})
        prompt = prompts.setdefault(row["prompt"], len(prompts))
        table.setdefault(row["subject"], {})[row["training_seed"], prompt, row["image_seed"]] = row[score]
    keys = sorted({key for found in table.values() for key in found})
    sides = [sorted({key[side] for key in keys}) for side in range(3)]
    whole = [name for name, found in table.items() if len(found) == np.prod([len(side) for side in sides])]
    if not whole:
        return None
    values = [[[[table[n][t, p, i] for i in sides[2]] for p in sides[1]] for t in sides[0]] for n in whole]
    return whole, np.array(values)
