"""Teach a Stable Diffusion base one subject from 3 to 6 photos (DreamBooth, arXiv:2208.12242).

    accelerate launch symdream/train.py --images photos/ --class-noun dog
    symdream train --images photos/ --class-noun dog --method symlora --rank 16 -o runs/dog
    symdream train --resume runs/dog

`train` below is the whole training, top to bottom: base, adapter, photos, optimizer, loop, save.
What is specific to a method lies in symdream/tuners, what is specific to a base in symdream/diffusion. What stands
around it, the request, the run's lock and how it ended, is symdream/training/session.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    # Launched as a file, this is the command `symdream train`. The command imports this module (symdream.train), and
    # all that follows, once it has checked the request and taken the run's lock: those imports take seconds.
    # Python looks for imports in symdream/ first; it must look beside it.
    sys.path[0] = str(Path(__file__).resolve().parent.parent)
    from symdream.cli import run_command

    sys.exit(run_command("train", sys.argv[1:], last=True))

import torch
from accelerate.utils import broadcast_object_list

from symdream.config import TrainConfig
from symdream.data.cache_folder import cache_folder
from symdream.data.draws import seed_of
from symdream.data.photos import add_class_images, read_photos
from symdream.data.store import Store
from symdream.data.training_set import TrainingSet
from symdream.diffusion.adapters import attach_configured, train_adapters
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.batch import Batch
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.checkpointing import use_gradient_checkpointing
from symdream.diffusion.engine import StepParts, choose_engine
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.diffusion.parking import park
from symdream.diffusion.sampling_engine import release_graphs
from symdream.errors import RequestError, Stopped
from symdream.interop.open import report_mismatch
from symdream.interop.warm_start import warm_start
from symdream.progress import Progress
from symdream.training import checkpoint, outputs, processes
from symdream.training.defaults import resolve
from symdream.training.devices import open_accelerator
from symdream.training.interrupt import StopRequest
from symdream.training.judge import Judge
from symdream.training.memory_advice import out_of_memory_explained
from symdream.training.optimizer import make_optimizer
from symdream.training.recorder import Recorder
from symdream.training.run_folder import RunFolder
from symdream.training.schedule import lr_factor, ramp
from symdream.training.selection import Selection
from symdream.training.startup import Startup
from symdream.training.validation import validate
from symdream.tuners import find_ramps
from symdream.ui import say


def train(run: RunFolder, config: TrainConfig, *, resume: bool = False, base: Base | None = None) -> Base:
    """Train `config` in `run` (locked by this process), from its newest checkpoint if `resume`.

    base: `config.model.base`, loaded already and without an adapter (None: it is loaded here).
    Returns the base with the trained adapter active on it, in eval mode.
    Raises: Stopped after saving, when asked to stop; RequestError, WorkError.
    """
    startup = Startup()
    accelerator, dtype = open_accelerator(config.model.device, config.model.dtype, together=True)
    leader = accelerator.is_main_process
    place = broadcast_object_list([run.path])[0]
    if not leader:
        run = RunFolder(place)  # the leader's: this process may have seen other free names
    if resume and leader:
        processes.check_number(run, accelerator.num_processes)
    base = base or load_base(config.model.base, device=accelerator.device, dtype=dtype)
    startup.done("base")
    config = resolve(config, base)
    photos = read_photos(config)
    with accelerator.main_process_first():
        add_class_images(photos, config, base, quiet=not leader)
    if config.loss.zero_terminal_snr:
        use_zero_terminal_snr(base)
    startup.done("photos")

    adapter, training = config.adapter, config.training
    components = base.chosen(adapter.components)
    trainable = attach_configured(base, config)
    newest = checkpoint.newest_intact(run.checkpoints) if resume else None
    if adapter.start_from and newest is None:
        report_mismatch(warm_start(base, adapter.start_from), adapter.start_from)
    judge = Judge(base, config, photos) if leader and config.selection.select_every else None
    if leader:
        outputs.describe(run, config, base, photos, accelerator, resume=resume)
        outputs.show_trigger(run, config, base)
    startup.done("adapter")
    store = Store(cache_folder(config.data.cache_dir))
    with out_of_memory_explained(config, base):
        data = TrainingSet(
            base,
            photos,
            config,
            store,
            step_samples=training.batch_size * training.accumulation * accelerator.num_processes,
            frozen_text="text_encoder" not in components,
        )
    startup.done("latents", store.counts("latents"))
    park([base.vae, *([] if data.text is None else base.text_encoders)])
    release_graphs(base.unet)  # the graphs that drew class images: training needs their memory
    if training.gradient_checkpointing:
        use_gradient_checkpointing(base, components, dropout=adapter.dropout > 0)
    optimizer = make_optimizer(config, trainable)
    loss_of = BatchLoss(base, train_text_encoder="text_encoder" in components, min_snr_gamma=config.loss.min_snr_gamma)
    train_adapters(base, components)

    first, state = 0, {}
    if newest is not None:
        state = checkpoint.load_checkpoint(newest, trainable, optimizer)
        first, run.seconds_before = state["step"], state.get("seconds", 0.0)
        if first > training.steps:
            raise RequestError(
                f"{newest} is beyond the {training.steps} steps of {run.config}.", fix=f"set steps to {first} or more"
            )
    engine = choose_engine(
        training.engine,
        StepParts(
            loss=loss_of,
            optimizer=optimizer,
            parameters=[p for named in trainable.values() for p in named.values()],
            accelerator=accelerator,
            ramps=[one for component in components for one in find_ramps(base.components()[component])],
            max_grad_norm=training.max_grad_norm,
            accumulation=training.accumulation,
            dtype=dtype,
            dropout=adapter.dropout,
            captions=data.captions(training.batch_size),
            unet=base.unet,
        ),
        say if leader else lambda _: None,
    )
    engine.load_state(state)
    if resume and leader:
        say(f"resumed at step {first}" + ("" if first else ": there is no checkpoint yet"))
        run.write_state("running", step=first, steps=training.steps)

    selection = Selection(run, config, base, trainable, judge, first, state.get("selection", {}))

    def save_checkpoint(step: int) -> None:
        if leader:
            extra = {**engine.state(), "selection": selection.content(), "seconds": run.seconds()}
            checkpoint.save_checkpoint(run.checkpoints, step, trainable, optimizer, extra, keep=config.output.keep)

    def batches(step: int) -> Iterator[Batch]:
        """What this process sees in a step, batch by batch."""
        for micro in range(training.accumulation):
            forward = (step * training.accumulation + micro) * accelerator.num_processes + accelerator.process_index
            samples = range(forward * training.batch_size, (forward + 1) * training.batch_size)
            # Dropout inside the model draws from torch's own generator: a resumed run drops what it would have.
            torch.manual_seed(seed_of(training.seed, "dropout", forward))
            yield data.batch(training.seed, samples)

    with (
        out_of_memory_explained(config, base),
        StopRequest(run.stop_file) as stop,
        Recorder(run, config, first, accelerator, base) as recorder,
        Progress("training", training.steps, start=first, quiet=not leader) as progress,
    ):
        done = first
        if selection.due(done):  # a resumed run may have been left between its checkpoint and the score of that
            selection.score(done, recorder.show)
        while done < training.steps and not selection.patience_is_over(done, accelerator):
            u = ramp(done, training.steps, adapter.ramp)
            engine.set(lr_factor(done, training.steps, training.lr_schedule, training.warmup), u)
            loss, norm = engine.step(batches(done))
            done += 1
            last_good = save_checkpoint if engine.keeps_last_good else None
            recorder.add(done, loss, norm, optimizer, u, on_bad_loss=last_good)
            run.drop_replaced()  # after a first step that is good there is something to lose here too
            if leader:
                startup.first_step()

            progress.update(done, recorder.in_words())
            last = done == training.steps
            if leader and due(config.output.sample_every, done, last):
                recorder.flush()
                recorder.show_picture(done, outputs.write_samples(run, config, base, done))
            if leader and due(config.selection.validate_every, done, last):
                recorder.flush()
                recorder.show(done, validate(run, base, loss_of, data, training.batch_size, done))
            stopping = not last and stop.requested(accelerator)
            if stopping or last or selection.due(done) or due(config.output.checkpoint_every, done):
                recorder.flush()
                save_checkpoint(done)
                if leader:
                    run.write_state("running", step=done, steps=training.steps)
            if stopping:
                if leader:
                    outputs.save_adapter(run, config, base, components, step=done)
                on_cpu = accelerator.device.type == "cpu"
                again = processes.resume_command(run.path, accelerator.num_processes, on_cpu=on_cpu)
                raise Stopped(
                    f"Stopped by {stop.reason} after step {done} of {training.steps}; everything is saved.",
                    fix=f"continue with: {again}",
                )
            if selection.due(done):
                selection.score(done, recorder.show)

    run.asked_too_late = stop.reason is not None
    for component in components:
        base.components()[component].eval()
    if leader:
        selected = selection.restore_best(done)
        outputs.save_adapter(run, config, base, components, step=selected.step, weight=selected.weight)
        outputs.write_summary(run, config, base, trainable, recorder, steps=done)
        run.update_summary(startup_seconds=startup.seconds)
    accelerator.wait_for_everyone()
    return base


def due(every: int, done: int, last: bool = False) -> bool:
    """Whether what happens every so many steps (0: never), and perhaps after the last, happens after `done`."""
    return bool(every) and (last or done % every == 0)
