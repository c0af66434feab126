"""Several runs at once: one forward and backward of the base trains them all (symdream.tuners.batched).

    train_together([RunFolder.create(path) for path in paths], configs)

Each run becomes what it would have become alone, up to rounding: its own photos, seed, draws, rates, schedule, ramp and
clipping. They share what decides the step (`what_differs` tells): base, steps, batch size, rank, layers, engine, and a
family of methods (lora, lora+ and dora; singlora and symlora). It pays where a step waits for launches or for the
base's weights to be read: on a GPU with small batches. Runs trained together cannot be resumed: of their states on the
way only the adapters are kept, and written when all is done.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from symdream.config import TrainConfig
from symdream.data.photos import Photos, add_class_images, read_photos
from symdream.diffusion.adapters import train_adapters
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.batched_engine import BatchedStep
from symdream.diffusion.checkpointing import use_gradient_checkpointing
from symdream.diffusion.detach import lent
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.diffusion.parking import park
from symdream.diffusion.sampling_engine import release_graphs
from symdream.errors import Problem, Problems, collected
from symdream.files import write_text
from symdream.progress import Progress
from symdream.settings import to_toml
from symdream.training.absolute_paths import with_absolute_paths
from symdream.training.batchable import what_differs
from symdream.training.batched_optimizer import StackedAdamW
from symdream.training.defaults import resolve
from symdream.training.devices import open_accelerator
from symdream.training.memory_advice import out_of_memory_explained
from symdream.training.run_folder import RunFolder
from symdream.training.schedule import lr_factor, ramp
from symdream.training.session import leave
from symdream.training.torch_state import as_torch_starts
from symdream.training.trainee import Trainee, failing_alone, finish, note, prepare, recording, state_of, watched
from symdream.tuners.batched import AdapterStack, installed, layer_and_kind


def train_together(
    runs: Sequence[RunFolder], configs: Sequence[TrainConfig], base: Base | None = None, *, keep: Collection[int] = ()
) -> list[bool]:
    """Train each config in its run folder, all in one loop; returns for each whether it finished.

    A run whose loss stops being finite, or whose files cannot be written, fails alone; its state.json says so.
    base: one that is loaded already, without adapters; it is given back as it was. keep: the steps whose states are
    kept, as adapters in checkpoints/step-N.

    Raises: Problems if the runs cannot share a loop (`what_differs`), or photos or captions cannot be read;
    RequestError, WorkError as a run alone. As there, folders of runs that had not begun are removed.
    """
    if problems := what_differs(configs):
        raise Problems("runs that are to be trained together", problems)
    with as_torch_starts(), ExitStack() as stack:
        for run in runs:
            run.acquire()
            stack.callback(run.release)
            run.begin()
        try:
            return _train(runs, configs, base, keep)
        except BaseException as error:
            for run, config in zip(runs, configs, strict=True):
                if run.read_state().get("status", "running") == "running":  # else it has ended already
                    leave(run, config, error)
            raise


def _train(
    runs: Sequence[RunFolder], configs: Sequence[TrainConfig], base: Base | None, keep: Collection[int]
) -> list[bool]:
    accelerator, dtype = open_accelerator(configs[0].model.device, configs[0].model.dtype)
    if dtype == torch.float16:
        raise Problems("this GPU", [Problem("fp16", "needs loss scaling: train alone, or take --dtype fp32")])
    base = base or load_base(configs[0].model.base, device=accelerator.device, dtype=dtype)
    with lent(base):
        return _train_on(base, runs, configs, accelerator, keep)


def _train_on(
    base: Base, runs: Sequence[RunFolder], configs: Sequence[TrainConfig], accelerator, keep: Collection[int]
) -> list[bool]:
    configs = [resolve(config, base) for config in configs]
    photos = read_all_photos(configs)
    for run, config, own in zip(runs, configs, photos, strict=True):
        write_text(run.config, to_toml(with_absolute_paths(config)), parents=False)
        run.write_state("running", step=0, steps=config.training.steps)
        add_class_images(own, config, base)  # as alone: on the base's own noise schedule
    if configs[0].loss.zero_terminal_snr:
        use_zero_terminal_snr(base)
    components = base.chosen(configs[0].adapter.components)
    trainees = [
        prepare(run, config, own, base, components, accelerator)
        for run, config, own in zip(runs, configs, photos, strict=True)
    ]
    frozen_text = trainees[0].data.text is not None
    park([base.vae, *(base.text_encoders if frozen_text else [])])
    release_graphs(base.unet)  # the graphs that drew pictures before: training needs their memory
    if configs[0].training.gradient_checkpointing:
        use_gradient_checkpointing(base, components)
    try:
        with ExitStack() as entered, out_of_memory_explained(configs[0], base):
            stacks = {}
            for component in components:
                adapters = [trainee.adapters[component] for trainee in trainees]
                stacks[component] = AdapterStack(adapters, base.device, base.dtype)
                entered.enter_context(installed(base.components()[component], stacks[component]))
            train_adapters(base, components)
            for trainee in trainees:
                entered.enter_context(recording(trainee))
            loop(base, stacks, trainees, keep)
        for row, trainee in enumerate(trainees):
            if trainee.error is None:
                with failing_alone(trainee):
                    finish(base, stacks, row, trainee)
    finally:
        for trainee in trainees:
            if trainee.error is not None:
                # `finish` may have kept some of its states, from which it cannot be resumed.
                shutil.rmtree(trainee.run.checkpoints, ignore_errors=True)
                leave(trainee.run, trainee.config, trainee.error)
    return [trainee.error is None for trainee in trainees]


def read_all_photos(configs: Sequence[TrainConfig]) -> list[Photos]:
    """The photos of each run, read before anything is written.

    Raises: Problems that tell for each run what cannot be read first.
    """
    photos, problems = [], []
    for config in configs:
        with collected(problems, "subject.images"):
            photos.append(read_photos(config))
    if problems:
        raise Problems("runs that are to be trained together", list(dict.fromkeys(problems)))
    return photos


def make_stacked_optimizer(stacks: dict[str, AdapterStack], trainees: Sequence[Trainee]) -> StackedAdamW:
    """AdamW with each run's own rates, decay and clipping."""
    device = next(iter(stacks.values())).values.device
    rates = []
    for component, stack in stacks.items():
        matrix = torch.zeros_like(stack.values.data)
        for row, trainee in enumerate(trainees):
            by_place = {layer_and_kind(name): rate for name, rate in trainee.rates[component].items()}
            for key, columns in stack.columns():
                matrix[row, columns] = by_place.get(key, 0.0)
        rates.append(matrix)
    training = [trainee.config.training for trainee in trainees]
    decay = torch.tensor([one.weight_decay for one in training], device=device)
    norms = torch.tensor([one.max_grad_norm or float("inf") for one in training], device=device)
    return StackedAdamW(list(stacks.values()), rates, decay, norms)


def loop(base: Base, stacks: dict[str, AdapterStack], trainees: Sequence[Trainee], keep: Collection[int]) -> None:
    """All steps of all runs, and what they are after the steps in `keep`."""
    steps, batch_size = trainees[0].config.training.steps, trainees[0].config.training.batch_size
    optimizer = make_stacked_optimizer(stacks, trainees)
    boards = [watched(stacks, row, trainee) for row, trainee in enumerate(trainees)]

    def batches(step: int) -> list:
        samples = range(step * batch_size, (step + 1) * batch_size)
        return [trainee.data.batch(trainee.config.training.seed, samples) for trainee in trainees]

    rows = len((first := batches(0))[0].x0)
    engine = BatchedStep(
        base,
        stacks,
        optimizer,
        first,
        captions=min(rows, max(len(trainee.data.texts) for trainee in trainees)),
        min_snr_gamma=[trainee.config.loss.min_snr_gamma for trainee in trainees],
        engine=trainees[0].config.training.engine,
    )
    with Progress(f"training {len(trainees)} together", steps) as progress:
        for step in range(steps):
            us = [ramp(step, steps, trainee.config.adapter.ramp) for trainee in trainees]
            plans = [trainee.config.training for trainee in trainees]
            factors = [lr_factor(step, steps, plan.lr_schedule, plan.warmup) for plan in plans]
            set_numbers(optimizer.factors, factors)
            for stack in stacks.values():
                set_numbers(stack.u, us)
            engine(batches(step))
            losses, norms = engine.losses.clone(), optimizer.norms.clone()
            for row, trainee in enumerate(trainees):
                for group in boards[row].param_groups:
                    group["lr"] = group["base_lr"] * factors[row]
                note(trainee, step + 1, losses[row], norms[row], boards[row], us[row])
            if step + 1 in keep:
                for row, trainee in enumerate(trainees):
                    trainee.states[step + 1] = state_of(stacks, row, trainee)
            progress.update(step + 1)
    for trainee in trainees:
        if trainee.error is None:
            with failing_alone(trainee):
                trainee.recorder.flush()


def set_numbers(tensor: Tensor, values: list[float]) -> None:
    tensor.copy_(torch.tensor(values), non_blocking=True)
