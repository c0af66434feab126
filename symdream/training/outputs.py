"""What a run writes for people and other programs: description, samples, adapter, summary."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from PIL import Image

from symdream import __version__
from symdream.config import TrainConfig
from symdream.data.cache_folder import cache_folder
from symdream.data.captions import caption_file, fill, lonely_captions, says
from symdream.data.class_images import from_base
from symdream.data.left_out import unread_folders, unread_pictures
from symdream.data.photos import Photo, Photos
from symdream.diffusion.adapters import Disabled, adapter_layers, save_adapters
from symdream.diffusion.base import Base
from symdream.diffusion.grid import make_grid
from symdream.diffusion.machine import device_name, package_versions
from symdream.diffusion.prompts import cut_off
from symdream.diffusion.sampling import sample
from symdream.errors import RequestError
from symdream.files import disk_error, read_json, write_atomically, write_json, write_text
from symdream.settings import to_toml
from symdream.training.memory import peak_memory
from symdream.training.photo_notes import photo_notes
from symdream.training.recorder import Recorder
from symdream.training.run_folder import RunFolder
from symdream.tuners import count_parameters
from symdream.ui import say
from symdream.whole_folder import write_folder

FORMAT_VERSION = 1
TRIGGERS = "triggers-drawn-by-the-base"  # of the cache; "triggers" holds pictures through an untrained adapter


def describe(
    run: RunFolder, config: TrainConfig, base: Base, photos: Photos, accelerator: Accelerator, *, resume: bool
) -> None:
    """Write config.toml and env.json; on resume, see that base and photos are still the same.

    Raises: RequestError if they are not.
    """
    identity = {"identity": base.identity, "hash": base.hash}
    before = read_json(run.env) if resume else {}
    if resume and run.env.exists() and not before:
        say(f"note: {run.env} is damaged and written anew; whether base and photos are the old ones is not known.")
    if before:
        redrawn = drawn_again(before, photos)
        if redrawn:
            say(
                "note: the class images were drawn again and are not quite the old ones (another machine or number of "
                "threads rounds differently); the run goes on with the new ones."
            )
        if "photo_files" not in before and any(photo.converted for photo in photos.photos):
            say(
                "note: this run began with a version that read photos of other colour spaces (Display P3, Adobe RGB) "
                "as if they were sRGB; it goes on with their true colours."
            )
        for name, same in (
            ("base", before["base"] == identity),
            ("photos or captions", before["photos"] == photos.hash),
            ("class images", redrawn or before.get("class_images") == photos.class_hash),
        ):
            if not same:
                raise RequestError(
                    f"The {name} of {run.path} are not those the run was started with.",
                    fix="put the old ones back, or start a new run",
                )
    write_text(run.config, to_toml(config), parents=False)
    write_json(
        run.env,
        {
            "symdream": __version__,
            "python": platform.python_version(),
            "packages": package_versions(),
            "device": device_name(accelerator.device),
            "processes": accelerator.num_processes,
            "dtype": str(base.dtype).removeprefix("torch."),
            "base": identity,
            "photos": photos.hash,
            "photo_files": photos.files,
            "class_images": photos.class_hash,
            "class_recipe": photos.class_recipe,
        },
        parents=False,
    )
    names = " and ".join(f'"{subject.trigger} {subject.class_noun}"' for subject in config.learned)
    say(
        f"Teaching {base.name} {names} from {len(photos.photos)} photos: "
        f"{config.adapter.method} rank {config.adapter.rank}, {config.training.steps} steps, "
        f"{accelerator.device.type} {str(base.dtype).removeprefix('torch.')}, in {run.path}"
    )
    if written := sum(caption_file(photo.path) is not None for photo in photos.photos):
        say(f"  captions: {written} of {len(photos.photos)} from files")
    for place, subject in enumerate(config.learned):
        own = [photo for photo in photos.photos if photo.subject == place]
        if not 3 <= len(own) <= 30:
            say(f"  note: 3 to 6 photos are usual; of {subject.trigger} {subject.class_noun} there are {len(own)}.")
        factor = 2 ** (len(base.vae.config.block_out_channels) - 1)
        data = config.data
        for note in photo_notes(own, config.model.resolution, factor, buckets=data.buckets, crop=data.crop):
            say(f"  note: {note}")
        if unread := unread_pictures(subject.images):
            left_out = first_names(unread)
            say(f"  note: left out of {subject.images}: {left_out}; such files are not read, save them as PNG or JPEG.")
        if folders := unread_folders(subject.images):
            say(
                f"  note: left out of {subject.images}: pictures in {first_names(folders)}; sub-folders are not "
                "searched, put their photos (or masks, as NAME_mask.png) beside the others."
            )
        if lonely := lonely_captions(subject.images):
            say(
                f"  note: not used in {subject.images}: {first_names(lonely)}; the caption of NAME.png or NAME.jpg is "
                "NAME.txt."
            )
        warn_about_trigger(base, subject.trigger)
        warn_about_captions(base, own)
    if base.embedded:
        from symdream.training.photographs import photo_warning

        if warning := photo_warning([photo.image for photo in photos.photos]):
            say(warning)


def drawn_again(before: Mapping[str, Any], photos: Photos) -> bool:
    """Whether the class images are other pictures than those in a run's env.json, but drawn as those were."""
    recipe = photos.class_recipe
    return (
        recipe is not None
        and before.get("class_images") not in (None, photos.class_hash)
        and before.get("class_recipe") == recipe
    )


def warn_about_trigger(base: Base, trigger: str) -> None:
    tokens = base.tokenizer(trigger, add_special_tokens=False).input_ids
    if len(tokens) > 1:
        pieces = " + ".join(base.tokenizer.convert_ids_to_tokens(tokens)).replace("</w>", "")
        say(
            f'  note: the trigger "{trigger}" is {len(tokens)} tokens to this base ({pieces}); '
            "one rare token, such as sks, is learned faster and leaks less."
        )


def first_names(paths: Sequence[Path]) -> str:
    """The names of at most three of them."""
    return ", ".join(path.name for path in paths[:3]) + (", …" if len(paths) > 3 else "")


def warn_about_captions(base: Base, photos: Sequence[Photo]) -> None:
    """Name photos of a subject whose captions do not ask for it, or are longer than what the text encoder reads."""
    silent = [photo for photo in photos if not says(photo.caption, photo.trigger)]
    if silent:
        say(
            f"  note: the captions of {first_names([photo.path for photo in silent])} do not say the trigger "
            f'"{silent[0].trigger}", which learns nothing from them; write {{subject}} where it belongs.'
        )
    for photo in photos:
        if lost := cut_off(base.tokenizer, photo.caption):
            say(f'  note: the caption of {photo.path.name} is longer than the text encoder reads. Cut off: "{lost}"')


def show_trigger(run: RunFolder, config: TrainConfig, base: Base) -> None:
    """On a real base, draw once what the trigger alone means to it (sks is also a rifle)."""
    path = run.samples / "trigger-before-training.png"
    if base.embedded or path.exists():
        return
    prompts = [fill(subject.template, trigger=subject.trigger, class_noun="") for subject in config.learned]
    cache = cache_folder(config.data.cache_dir)
    with Disabled(base):  # a new SingLoRA's update is not zero, and --start-from's is a whole subject
        images = [
            image.read()
            for prompt in prompts
            for image in from_base(
                base, prompt, 1, base.resolution, cache, kind=TRIGGERS, first_seed=0, batch=1, quiet=True
            )
        ]
    save_sample(run, path.name, images[0] if len(images) == 1 else make_grid([images], column_labels=prompts))
    asked = " and ".join(f'"{prompt}"' for prompt in prompts)
    say(f"  what this base draws for {asked}: {path}. If it is something of its own, choose another --trigger.")


def save_png(path: Path, image: Image.Image) -> None:
    """`image` as `path`, whole or not at all. Raises: WorkError on a full disk."""
    write_atomically(path, lambda temporary: image.save(temporary, format="PNG"))


def save_sample(run: RunFolder, name: str, image: Image.Image) -> Path:
    """`image` as samples/NAME, never in a run folder that somebody removed. Raises: WorkError."""
    path = run.samples / name
    try:
        run.samples.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error
    save_png(path, image)
    return path


def sample_prompts(config: TrainConfig) -> list[str]:
    return [
        fill(prompt, trigger=subject.trigger, class_noun=subject.class_noun)
        for subject in config.learned
        for prompt in config.output.sample_prompts or [subject.template]
    ]


def write_samples(run: RunFolder, config: TrainConfig, base: Base, step: int) -> Path:
    """One picture of each sample prompt, always from the same seeds, as samples/step-N.png."""
    prompts = sample_prompts(config)
    images = sample(base, prompts, [config.training.seed + i for i in range(len(prompts))])
    grid = make_grid([images], column_labels=prompts, row_labels=[f"step {step}"])
    return save_sample(run, f"step-{step:05d}.png", grid)


def words(config: TrainConfig) -> dict[str, Any]:
    """trigger and class_noun of the (first) subject and, where there are several, `subjects` with those of all."""
    each = [{"trigger": subject.trigger, "class_noun": subject.class_noun} for subject in config.learned]
    return each[0] if len(each) == 1 else {**each[0], "subjects": each}


def adapter_metadata(
    config: TrainConfig, base: Base, step: int, u: float | None, weight: float | None = None
) -> dict[str, Any]:
    """The JSON under the key `symdream` in every adapter file; `recommended_weight` where one was found,
    `licence` (the base's) where it is known."""
    recommended = {} if weight is None else {"recommended_weight": weight}
    return {
        "format": FORMAT_VERSION,
        "symdream": __version__,
        "method": config.adapter.method,
        "rank": config.adapter.rank,
        "alpha": config.adapter.alpha,
        "u": u,
        "base": {"identity": base.identity, "hash": base.hash},
        "family": base.family,
        "prediction_type": base.prediction_type,
        "resolution": config.model.resolution,
        "zero_terminal_snr": config.loss.zero_terminal_snr,
        **words(config),
        "prompts": sample_prompts(config),
        "steps": config.training.steps,
        "step": step,
        "seed": config.training.seed,
        **({"licence": base.licence} if base.licence else {}),
        **recommended,
    }


def save_adapter(
    run: RunFolder,
    config: TrainConfig,
    base: Base,
    components: Sequence[str],
    *,
    step: int,
    weight: float | None = None,
) -> None:
    """Write adapter/ whole or not at all; `weight` is the one to use it at, where that was found out."""
    from symdream.training.schedule import ramp_after

    u = None if config.adapter.ramp is None else ramp_after(step, config.training.steps, config.adapter.ramp)
    metadata = adapter_metadata(config, base, step, u, weight)
    write_folder(run.adapter, lambda new: save_adapters(base, components, new, metadata), parents=False)


def write_summary(
    run: RunFolder,
    config: TrainConfig,
    base: Base,
    trainable: Mapping[str, Mapping[str, torch.nn.Parameter]],
    recorder: Recorder,
    *,
    steps: int,
) -> None:
    """summary.json: what was trained, in how many steps, and what it cost."""
    modules = base.components()
    adapter = config.adapter
    shapes = [(layer.in_features, layer.out_features) for c in trainable for layer in adapter_layers(modules[c])]
    run.update_summary(
        method=adapter.method,
        rank=adapter.rank,
        steps=steps,
        trainable_parameters=sum(p.numel() for named in trainable.values() for p in named.values()),
        lora_parameters_at_this_rank=count_parameters("lora", shapes, adapter.rank),
        seconds_total=run.seconds(),
        seconds_per_step=recorder.median_seconds(),
        peak_memory_bytes=peak_memory(),
        base={"identity": base.identity, "hash": base.hash},
        **words(config),
        seed=config.training.seed,
    )
