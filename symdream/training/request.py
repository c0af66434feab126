"""From what a person typed to a checked TrainConfig: flags over TOML over a preset over defaults, all at once."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path
from typing import Annotated, Any

from symdream import presets, settings
from symdream.config import PresetName, Subject, TrainConfig
from symdream.data.cache_folder import cache_folder
from symdream.data.captions import caption_of, class_prompt_problem, prompt_problem, template_problem
from symdream.data.checks import check_class_images, effects
from symdream.data.images import find_images, read_folder
from symdream.data.masks import lonely_masks, masks_in, misnamed_masks, read_mask
from symdream.errors import Problem, Problems, RequestError, collected, problems_of
from symdream.training.ranks import is_leader
from symdream.training.rerun import derived_anew, without_permission
from symdream.training.run_folder import RunFolder, new_run_path
from symdream.ui import say
from symdream.utf8 import is_utf8

SHORT = {"output": ["-o"]}
MAX_NAME_BYTES = 100  # of the photos' folders in a run's own name
PLAIN_TYPES = {int: int, float: float, str: str, bool: bool, Path: Path}


def arguments_class() -> type:
    """The flags of training as a dataclass for tyro: every setting by its flat name, None = not given."""
    import tyro

    flags: list[tuple[str, Any, Any]] = [
        ("config", Annotated[Path | None, tyro.conf.arg(help="TOML file with settings; flags win over it.")], None),
        ("resume", Annotated[Path | None, tyro.conf.arg(help="Run folder to continue; takes no other flag.")], None),
        ("preset", Annotated[PresetName | None, tyro.conf.arg(help=presets.explained())], None),
    ]
    for name, (_, field) in settings.fields().items():
        default = field.get_default(call_default_factory=True)
        hint = "" if default in (None, [], False, True) else f" (default: {default})"
        arg = tyro.conf.arg(help=(field.description or "") + hint, aliases=SHORT.get(name), help_behavior_hint="")
        kind = plain_type(field.annotation)
        if kind is bool:
            flags.append((name, Annotated[bool, arg], default))
        else:
            flags.append((name, Annotated[kind | None, arg], None))
    return dataclasses.make_dataclass(
        "TrainArgs", [(name, kind, dataclasses.field(default=default)) for name, kind, default in flags]
    )


def plain_type(annotation: Any) -> Any:
    """The type without pydantic's limits, which pydantic checks later and together with the TOML file's."""
    from typing import Literal, get_args, get_origin

    if annotation in PLAIN_TYPES:
        return annotation
    if get_origin(annotation) is Literal:
        return annotation
    if get_origin(annotation) is list:
        return list[str]
    if get_origin(annotation) is Annotated:
        return plain_type(get_args(annotation)[0])
    inner = [a for a in get_args(annotation) if a is not type(None)]
    assert len(inner) == 1, annotation
    return plain_type(inner[0])


def parse(argv: list[str], prog: str, description: str) -> Any:
    """`argv` as TrainArgs, by tyro. Exits with 2 on an unknown flag or a value of the wrong type.

    Raises: Problems if a list that is given in parts cannot be put together.
    """
    import tyro

    from symdream.arguments import merge_repeated, optional_arguments

    kind = arguments_class()
    with optional_arguments():
        args = tyro.cli(kind, args=merge_repeated(kind, argv), prog=prog, description=description)
    args.given = given_flags(args, argv)
    return args


def given_flags(args: Any, argv: list[str]) -> dict[str, Any]:
    """The settings that were really typed."""
    given = {}
    for name, (_, field) in settings.fields().items():
        value = getattr(args, name)
        if plain_type(field.annotation) is bool:
            flag = name.replace("_", "-")
            typed = {a.replace("_", "-") for a in argv}
            if typed & {f"--{flag}", f"--no-{flag}"}:
                given[name] = value
        elif value is not None:
            given[name] = value
    return given


def read_request(args: Any) -> TrainConfig:
    """The checked settings of a new run.

    Raises: Problems, RequestError.
    """
    nested = {}
    if args.config:
        nested = without_permission(args.config, settings.read_toml(args.config), args.given)
        nested = derived_anew(nested, args.given, args.preset)
    where = str(args.config) if args.config else "the request"
    if args.config and args.given:
        where += " and the flags"
    merged = settings.merge(nested, args.given)
    if args.preset:
        merged["preset"] = args.preset
    merged, chosen = presets.apply(merged)
    config = settings.build(merged, where, checks=CHECKS)
    if chosen is not None:
        say(f"Preset {config.preset}: " + (", ".join(chosen) or "everything it sets is given otherwise") + ".")
    return config


def check_rate(config: TrainConfig) -> list[Problem]:
    """Whether the rate that was set is one that trains something."""
    training = config.training
    if config.adapter.components != "text_encoder" or training.lr is None or training.optimizer == "prodigy":
        return []
    message = "is the UNet's, which components = text_encoder does not train; set text_encoder_lr"
    return [Problem(f"training.lr = {training.lr:g}", message)]


def check_prompts(config: TrainConfig) -> list[Problem]:
    """Whether the prompts of samples and class images are such, and those of the selection, where it is on, can be
    read."""
    from symdream.metrics.prompts import read_prompts

    samples = config.output.sample_prompts
    problems = [Problem("output.sample_prompts", wrong) for prompt in samples if (wrong := prompt_problem(prompt))]
    if config.prior.class_prompt and (wrong := class_prompt_problem(config.prior.class_prompt)):
        problems.append(Problem(f"prior.class_prompt = {config.prior.class_prompt}", wrong))
    for subject in config.learned if config.selection.select_every else []:
        file = (subject.images or Path()) / "prompts.toml"
        if file.is_file():
            try:
                read_prompts(file)
            except Problems as error:
                problems += [Problem(f"{file}: {problem.key}", problem.message) for problem in error.problems]
            except RequestError as error:
                problems += problems_of(error, str(file))
    return problems


def check_extras(config: TrainConfig) -> list[Problem]:
    """Whether wandb, where it is asked for, is installed."""
    if not config.output.wandb or importlib.util.find_spec("wandb"):
        return []
    return [Problem("output.wandb", 'is not installed; pip install "symdream[wandb]"')]


def check_start(config: TrainConfig) -> list[Problem]:
    """Whether the adapter to go on from is there; what is in it is looked at when it is read."""
    start, output = config.adapter.start_from, config.output.output
    if start is None:
        return []
    if start.exists():
        replaced = output.resolve() if output is not None and config.output.overwrite else None
        if replaced not in (start.resolve(), *start.resolve().parents):
            return []
        return [Problem(f"adapter.start_from = {start}", "is what --overwrite would replace: choose another --output")]
    return [Problem(f"adapter.start_from = {start}", "does not exist")]


def check_base(config: TrainConfig) -> list[Problem]:
    """Whether the base's name means anything; its weights are looked at when it is loaded."""
    from symdream.diffusion.names import resolve_name

    problems: list[Problem] = []
    with collected(problems, f"model.base = {config.model.base}"):
        resolve_name(config.model.base)
    return problems


def check_cache(config: TrainConfig) -> list[Problem]:
    """Whether there is a place for the cache: a user may have no home folder."""
    try:
        cache_folder(config.data.cache_dir)
    except RequestError as error:
        return [Problem("data.cache_dir", f"is needed: {error.what} Or set SYMDREAM_CACHE.")]
    return []


def check_utf8(config: TrainConfig) -> list[Problem]:
    """Whether config.toml, which is UTF-8, can hold all paths and lists (plain texts are checked as they are read)."""
    problems = []
    for name, (section, _) in settings.fields().items():
        value = getattr(getattr(config, section), name)
        if isinstance(value, Path) and name != "images":  # those are checked beside what is in them
            # Where the run goes is kept as it was typed, other paths whole.
            if not is_utf8(value if name == "output" else value.resolve()):
                problems.append(Problem(f"{section}.{name}", "the path is not UTF-8; give it another name"))
        elif isinstance(value, list) and not all(map(is_utf8, value)):
            problems.append(Problem(f"{section}.{name}", "is not UTF-8"))
    return problems


def check_subject(config: TrainConfig) -> list[Problem]:
    """Problems with the photos and words of the subjects (all of them, since each costs a user one more try)."""
    if not config.subjects:
        return check_one(config.subject, "subject", config) + check_class_images(config) + effects(config)
    problems = []
    for number, subject in enumerate(config.subjects, 1):
        problems += check_one(subject, f"subjects[{number}]", config)
    return problems + check_class_images(config) + effects(config)


CHECKS = (check_utf8, check_subject, check_base, check_start, check_cache, check_rate, check_prompts, check_extras)


def what_lacks(subject: Subject, key: str, *, flags: bool) -> list[Problem]:
    """What every subject needs and this one does not tell; flags: whether to name those that would tell it."""
    problems = []
    if subject.class_noun is None:
        example = ', such as --class-noun "dog"' if flags else ""
        problems.append(Problem(f"{key}.class_noun", f"is needed: what the subject is{example}"))
    if subject.images is None:
        example = ", such as --images photos/" if flags else ""
        problems.append(Problem(f"{key}.images", f"is needed: the folder with the photos{example}"))
    return problems


def check_one(subject: Subject, key: str, config: TrainConfig) -> list[Problem]:
    problems = what_lacks(subject, key, flags=key == "subject")
    template_ok = subject.template is None or (problem := template_problem(subject.template)) is None
    if not template_ok:
        problems.append(Problem(f"{key}.template = {subject.template}", problem))
    if subject.images is None:
        return problems
    if not is_utf8(subject.images.resolve()):
        return [*problems, Problem(f"{key}.images", "the folder's path is not UTF-8; give it another name")]
    try:
        found = read_folder(subject.images)
    except RequestError as error:
        return problems + problems_of(error, f"{key}.images")
    problems += [Problem(f"{key}.images", problem) for problem in found.problems]
    masks = masks_in(subject.images)
    for path in found.images:
        with collected(problems, f"{key}.images"):
            caption_of(path, "{subject}", trigger=subject.trigger, class_noun=subject.class_noun or "")
            if config.data.mask_strength:
                read_mask(path, masks)
    photos = find_images(subject.images)
    for photo in photos:  # the run folder, whose files are UTF-8, tells which photos it was trained on
        if not is_utf8(photo.name):
            message = f"the name of {ascii(photo.name)} is not UTF-8; give the file another"
            problems.append(Problem(f"{key}.images", message))
    for mask in lonely_masks(masks, photos):
        problems.append(Problem(f"{key}.images", f"{mask} is a mask without a photo of its name"))
    for mask, name in misnamed_masks(photos).items():
        message = f"{mask} seems to be a mask, but would be trained on as a photo; call it {name}, or remove it; "
        message += "a photo needs another name, or a caption"
        problems.append(Problem(f"{key}.images", message))
    return problems


def output_path(config: TrainConfig) -> Path:
    """Where the run goes: --output, else a new folder under ./runs named after photos, method and rank."""
    if config.output.output is not None:
        return config.output.output
    folders = "-".join(subject.images.resolve().name for subject in config.learned)
    name = re.sub(r"[^\w.-]+", "-", folders)
    # A name of a file has at most 255 bytes; some letters take four.
    name = name.encode()[:MAX_NAME_BYTES].decode(errors="ignore").strip("-.") or "subject"
    return new_run_path(Path("runs"), f"{name}-{config.adapter.method.replace('+', 'plus')}-r{config.adapter.rank}")


def open_output(config: TrainConfig) -> RunFolder:
    """The new run folder of this request. Raises: RequestError if it exists (see RunFolder.create)."""
    if not is_leader():
        return RunFolder(output_path(config))  # the leader makes it, maybe under another free name
    return RunFolder.create(output_path(config), overwrite=config.output.overwrite)


def reopen(args: Any) -> tuple[RunFolder, TrainConfig]:
    """The run named by --resume, and its settings.

    Raises: RequestError if it is no run, or other settings were given too.
    """
    others = [name for name in ("config", "preset") if getattr(args, name)]
    if args.given or others:
        extra = ", ".join(f"--{name.replace('_', '-')}" for name in [*others, *args.given])
        raise RequestError(
            f"--resume continues a run with its own settings; {extra} would change them.",
            fix="leave them out, or start a new run",
        )
    run = RunFolder.open(args.resume)
    return run, settings_of(run)


def settings_of(run: RunFolder) -> TrainConfig:
    """The settings in config.toml, with which the run is to go on.

    Raises: RequestError, Problems if they are damaged, or photos or class images are gone.
    """
    config = run.read_config()
    keys = [f"subjects[{number}]" for number in range(1, len(config.subjects) + 1)] or ["subject"]
    lacking = [what_lacks(subject, key, flags=False) for subject, key in zip(config.learned, keys, strict=True)]
    if problems := sum(lacking, []):
        raise Problems(f"{run.config}, which is damaged or incomplete", problems)
    for subject in config.learned:
        try:
            found = read_folder(subject.images)
        except RequestError as error:
            raise RequestError(
                f"The photos of this run are gone: {error.what}",
                fix=f"put them back, or write into {run.config} where they are now",
            ) from None
        if found.problems:
            raise Problems(str(run.config), [Problem("subject.images", p) for p in found.problems])
    if problems := check_class_images(config):
        raise Problems(str(run.config), problems)
    return config
