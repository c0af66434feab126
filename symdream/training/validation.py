"""A loss that can be compared from step to step.

The loss of a step is that of its own images, timesteps and noises, and jumps with them: between t = 50 and t = 950 it
changes tenfold, whatever was learned. Here the same triples (image, timestep, noise) are asked at every look, and in
every run on the same photos, so that only what was learned moves the number. The photos are those of training (with
3 to 6 there is none to spare), so it tells how well they are learned; whether the adapter still obeys is told by the
scores of the selection.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

from symdream.data.training_set import TrainingSet
from symdream.diffusion.base import Base
from symdream.diffusion.batch import Batch
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.sampling import evaluating
from symdream.files import write_text
from symdream.training.run_folder import RunFolder

VALIDATION_SEED = -1  # no run's own: those start at 0
TRIPLES = 16  # at least, rounded up to whole batches


def validation_batches(data: TrainingSet, batch_size: int) -> Iterator[Batch]:
    """The fixed batches; the k-th shows sample k · batch_size and those after it of the seed that is kept for this."""
    # All samples of a batch share a bucket, as those of a training step do.
    step = data.step_samples
    first, shown = 0, 0
    while shown < TRIPLES:
        size = min(batch_size, step - first % step)
        yield data.batch(VALIDATION_SEED, range(first, first + size))
        first, shown = first + size, shown + size


@torch.no_grad()
def validation_loss(base: Base, loss_of: BatchLoss, data: TrainingSet, batch_size: int) -> float:
    """Mean training loss over the fixed triples, without dropout; touches no gradient and no random state."""
    losses, sizes = [], []
    with evaluating(base):
        for batch in validation_batches(data, batch_size):
            losses.append(loss_of(batch))
            sizes.append(float(len(batch.x0)))
    weights = torch.tensor(sizes, dtype=torch.float64)
    # Apple's GPUs have no double precision: the mean is taken here.
    return float((torch.stack(losses).cpu().double() * weights).sum() / weights.sum())


def read_validation(run: RunFolder) -> dict[int, float]:
    """{step: validation loss} as validation.jsonl has it."""
    try:
        lines = (run.path / "validation.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            row = json.loads(line)
            found[row["step"]] = row["loss"]
        except (ValueError, KeyError, TypeError):
            continue  # cut short by a crash of the disk
    return found


def validate(
    run: RunFolder, base: Base, loss_of: BatchLoss, data: TrainingSet, batch_size: int, step: int
) -> dict[str, float]:
    """Find the loss after `step`, add it to validation.jsonl, and return it by the name that boards show it under.

    Lines of this step and later ones, from before a resume, go.
    """
    loss = validation_loss(base, loss_of, data, batch_size)
    rows = {s: known for s, known in read_validation(run).items() if s < step} | {step: loss}
    text = "".join(json.dumps({"step": s, "loss": value}) + "\n" for s, value in rows.items())
    write_text(run.path / "validation.jsonl", text, parents=False)
    return {"validation loss": loss}
