"""One of several runs that are trained together (symdream.training.batched): begun, recorded and written as alone.

Its adapter is made as for a run of its own, is then a row of the stacks that all share, and is read back at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import Tensor

from symdream.config import TrainConfig
from symdream.data.cache_folder import cache_folder
from symdream.data.photos import Photos
from symdream.data.store import Store
from symdream.data.training_set import TrainingSet
from symdream.diffusion.adapters import attach_configured
from symdream.diffusion.base import Base
from symdream.diffusion.detach import detach
from symdream.training import checkpoint, outputs
from symdream.training.optimizer import make_optimizer
from symdream.training.recorder import Recorder
from symdream.training.run_folder import RunFolder
from symdream.training.schedule import ramp, ramp_after
from symdream.tuners import METHODS, find_ramps
from symdream.tuners.batched import AdapterStack, StackedAdapter, layer_and_kind
from symdream.ui import say


@dataclass
class Trainee:
    """One of the runs: its data, and its parameters by component and PEFT name, with the groups that rates go by."""

    run: RunFolder
    config: TrainConfig
    data: TrainingSet
    adapters: dict[str, StackedAdapter]
    rates: dict[str, dict[str, float]]
    groups: list[dict]
    recorder: Recorder
    error: Exception | None = None
    states: dict[int, dict[str, dict[str, Tensor]]] = field(default_factory=dict)  # step: what a checkpoint would hold


@contextmanager
def failing_alone(trainee: Trainee) -> Iterator[None]:
    """Inside it an error ends this run, and no other."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever goes wrong with one run, the others are trained and written
        say(str(error) or type(error).__name__)
        trainee.error = trainee.error or error


@contextmanager
def recording(trainee: Trainee) -> Iterator[None]:
    """Inside it the run's boards are open; one that cannot be closed after the last step ends this run alone."""
    with ExitStack() as opened:
        opened.enter_context(trainee.recorder)
        yield
        with failing_alone(trainee):
            opened.close()


def prepare(
    run: RunFolder, config: TrainConfig, photos: Photos, base: Base, components: list[str], accelerator
) -> Trainee:
    """Describe a run and make its adapter as alone; the base is left without it."""
    adapter, steps = config.adapter, config.training.steps
    outputs.describe(run, config, base, photos, accelerator, resume=False)
    outputs.show_trigger(run, config, base)
    with fresh_adapter(base, config) as trainable:
        groups = make_optimizer(config, trainable).param_groups
        rate_of = {id(p): group["base_lr"] for group in groups for p in group["params"]}
        name_of = {id(p): (c, name) for c, named in trainable.items() for name, p in named.items()}
        scaling = adapter.alpha / adapter.rank
        u = ramp(0, steps, adapter.ramp)
        adapters = {
            c: StackedAdapter(adapter.method, scaling, {name: p.detach().clone() for name, p in named.items()}, u)
            for c, named in trainable.items()
        }
        rates = {c: {name: rate_of[id(p)] for name, p in named.items()} for c, named in trainable.items()}
        shown = [{**g, "params": [name_of[id(p)] for p in g["params"]]} for g in groups]
    data = TrainingSet(
        base,
        photos,
        config,
        Store(cache_folder(config.data.cache_dir)),
        step_samples=config.training.batch_size,
        frozen_text="text_encoder" not in components,
    )
    return Trainee(run, config, data, adapters, rates, shown, Recorder(run, config, 0, accelerator, base))


@contextmanager
def fresh_adapter(base: Base, config: TrainConfig) -> Iterator[dict[str, dict[str, torch.nn.Parameter]]]:
    """Inside it the base has a new adapter, as a run alone starts with."""
    trainable = attach_configured(base, config)
    try:
        yield trainable
    finally:
        detach(base)


def state_of(stacks: dict[str, AdapterStack], row: int, trainee: Trainee) -> dict[str, dict[str, Tensor]]:
    """A run's parameters now (copies on the CPU), by component and PEFT name."""
    return {
        component: {n: v.cpu() for n, v in stack.read(row, list(trainee.adapters[component].parameters)).items()}
        for component, stack in stacks.items()
    }


def watched(stacks: dict[str, AdapterStack], row: int, trainee: Trainee) -> SimpleNamespace:
    """What the recorder looks at: the run's groups, their parameters being views into the stacks."""
    where = {component: dict(stack.columns()) for component, stack in stacks.items()}

    def view(component: str, name: str) -> Tensor:
        return stacks[component].values.data[row, where[component][layer_and_kind(name)]]

    return SimpleNamespace(param_groups=[{**g, "params": [view(*p) for p in g["params"]]} for g in trainee.groups])


def note(trainee: Trainee, step: int, loss: Tensor, norm: Tensor, board: SimpleNamespace, u: float) -> None:
    """Record a step of one run; a loss that is not finite, or a full disk, ends this run, and no other."""
    if trainee.error is not None:
        return
    with failing_alone(trainee):
        trainee.recorder.add(step, loss, norm, board, u, on_bad_loss=None)
        trainee.run.drop_replaced()


def finish(base: Base, stacks: dict[str, AdapterStack], row: int, trainee: Trainee) -> None:
    """Write a run's adapter and summary as alone."""
    config, run, steps = trainee.config, trainee.run, trainee.config.training.steps
    with fresh_adapter(base, config) as trainable:
        for component, values in state_of(stacks, row, trainee).items():
            for name, value in values.items():
                trainable[component][name].data.copy_(value)
            if METHODS[config.adapter.method].has_ramp:
                for one in find_ramps(base.components()[component]):
                    one.set(ramp_after(steps, steps, config.adapter.ramp))
        outputs.save_adapter(run, config, base, list(stacks), step=steps)
        outputs.write_summary(run, config, base, trainable, trainee.recorder, steps=steps)
    run.update_summary(trained_together=stacks["unet"].count if "unet" in stacks else next(iter(stacks.values())).count)
    run.write_state("finished", step=steps, steps=steps)
    # Last: a run that is not finished is begun anew, and must not find states that it cannot be resumed from.
    for step, parameters in trainee.states.items():
        checkpoint.save_checkpoint(run.checkpoints, step, parameters, None, {}, keep=len(trainee.states))
