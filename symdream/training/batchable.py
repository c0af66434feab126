"""Which runs can be trained together (symdream.training.batched): what they must share, and what only one alone has."""

from __future__ import annotations

from collections.abc import Sequence

from symdream.config import TrainConfig
from symdream.errors import Problem
from symdream.tuners.batched import FAMILIES

# What decides the shapes of a step, or how it is taken, and so must be the same in all.
SHARED = (
    "model.base",
    "model.device",
    "model.dtype",
    "model.resolution",
    "adapter.rank",
    "adapter.targets",
    "adapter.components",
    "training.steps",
    "training.batch_size",
    "training.gradient_checkpointing",
    "training.engine",
    "loss.zero_terminal_snr",
    "prior.wanted",
)
# What a run of its own offers and a shared one does not, with the value that means "not wanted".
ALONE = {
    "data.buckets": False,
    "adapter.dropout": 0.0,
    "adapter.start_from": None,
    "training.accumulation": 1,
    "training.optimizer": "adamw",
    "selection.validate_every": 0,
    "selection.select_every": 0,
    "output.sample_every": 0,
}


def setting(config: TrainConfig, key: str) -> object:
    section, name = key.split(".")
    return getattr(getattr(config, section), name)


def what_differs(configs: Sequence[TrainConfig]) -> list[Problem]:
    """Why these runs cannot be trained together; [] if they can."""
    problems = []
    for key in SHARED:
        values = list(dict.fromkeys(setting(config, key) for config in configs))
        if len(values) > 1:
            problems.append(Problem(f"{key} = {values[1]}", f"is {values[0]} in the first run; it must be the same"))
    families = {FAMILIES[config.adapter.method] for config in configs}
    if len(families) > 1:
        methods = ", ".join(sorted({config.adapter.method for config in configs}))
        problems.append(Problem(f"adapter.method = {methods}", "are not of one family"))
    for key, off in ALONE.items():
        if used := next((v for v in (setting(config, key) for config in configs) if v != off), None):
            problems.append(Problem(f"{key} = {used}", "works only in a run of its own"))
    if "fp16" in {config.model.dtype for config in configs}:
        problems.append(Problem("model.dtype = fp16", "needs loss scaling, which works only in a run of its own"))
    return problems
