"""Which bucket a step trains on: a pure function of (seed, step).

All samples of one optimizer step, over accumulation and processes, come from one bucket. Let bucket b hold n_b
entries (a photo counts as often as its repeats say) and n = Σ n_b. Every n steps the buckets are shuffled so that b
comes n_b times; with N samples a step it then shows n_b · N samples, drawn from shuffles of its n_b entries: each
entry exactly N times in every n steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from symdream.data import draws


def turn(seed: int, step: int, entries: Sequence[int]) -> tuple[int, int]:
    """(bucket, how many earlier steps had the same one) of 0-based `step`; `entries` are the n_b."""
    if len(entries) == 1:
        return 0, step
    epoch, place = divmod(step, sum(entries))
    slots = torch.tensor([bucket for bucket, count in enumerate(entries) for _ in range(count)], device="cpu")
    order = slots[torch.randperm(len(slots), generator=draws.generator(seed, "bucket", epoch), device="cpu")].tolist()
    bucket = order[place]
    return bucket, epoch * entries[bucket] + order[:place].count(bucket)
