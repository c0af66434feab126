"""The grid: which methods, ranks, subjects and seeds are compared, and what all of them share.

    [TOML]  methods × ranks (arms) × subjects × training_seeds = cells; every cell draws prompts × image_seeds

`build` checks everything before any work starts and tells all problems at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, ValidationError

from symdream import settings
from symdream.bench.dreambooth import is_data_set
from symdream.bench.presets import PRESETS
from symdream.bench.subjects import BenchSubject, read_subjects, unknown_subjects
from symdream.config import Fraction, MethodName, NonNegativeInt, PositiveFloat, PositiveInt, Section
from symdream.diffusion.limits import Sampler
from symdream.diffusion.names import EMBEDDED
from symdream.errors import Problem, Problems, RequestError, collected, did_you_mean, problems_of

# What the grid decides itself, or what would make cells differ in more than their method.
FIXED_BY_GRID = (
    *("images", "class_noun", "trigger", "base", "device", "dtype", "method", "rank", "alpha", "start_from"),
    *("lr", "text_encoder_lr", "lambda_lr", "lora_plus_ratio", "steps", "batch_size", "seed", "zero_terminal_snr"),
    *("output", "overwrite", "checkpoint_every", "keep", "sample_every", "sample_prompts", "tensorboard", "wandb"),
    *("select_every", "validate_every", "patience", "dino", "clip"),
)
TRIGGER = "sks"
GRID_FILE = "grid.toml"  # in the folder of a comparison


class Grid(Section):
    """Everything that decides a comparison; grid.toml in its folder is this, complete."""

    name: str = "grid"
    """What the report calls it."""
    base: str = "sprite"
    """Which base is taught: sprite, sd15, sdxl, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    data: Path | None = None
    """Folder of subjects (None: the samples)."""
    layout: Literal["samples", "dreambooth"] = "samples"
    """As sample_data/ or the public DreamBooth data set: the folder tells it, and dreambooth has no default place."""
    methods: list[MethodName] = Field(default=["lora", "lora+", "dora", "singlora", "symlora"], min_length=1)
    """The methods compared."""
    ranks: list[PositiveInt] = Field(default=[8], min_length=1)
    """Ranks of LoRA, LoRA+ and DoRA; those of SingLoRA and SymLoRA follow from `match`."""
    match: Literal["rank", "parameters", "both"] = "rank"
    """SingLoRA and SymLoRA get the same rank, the rank with LoRA's number of parameters, or an arm of each."""
    subjects: list[str] = []
    """The subjects compared (none given: all that are neither for tuning nor left out)."""
    left_out: list[str] = []
    """Subjects that are not compared on, such as those that given settings were tuned on."""
    training_seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    """Each cell is trained from one of these."""
    image_seeds: list[NonNegativeInt] = Field(default=[0], min_length=1)
    """Every prompt is drawn from each of these, by all methods alike."""
    prompts_per_subject: NonNegativeInt = 0
    """How many of a subject's prompts are drawn (0: all)."""
    steps: PositiveInt = 200
    """Training steps of each cell."""
    batch_size: PositiveInt = 4
    """Photos in each step."""
    points: PositiveInt = 4
    """How many states along the run are scored, evenly spaced, the last step among them."""
    only_last_in_full: bool = False
    """Draw all pictures at the last step only, and at the others one of each prompt."""
    sampler: Sampler = "dpm++"
    """The solver that draws."""
    sampling_steps: PositiveInt | None = None
    """Denoising steps of a picture (None: the base's)."""
    guidance: PositiveFloat | None = None
    """Strength of the prompt (None: the base's)."""
    drift_pictures: NonNegativeInt = 2
    """Pictures of the class alone, drawn at the last step, that tell how far the base has moved."""
    tune: bool = True
    """Find each arm's lr on the tuning subjects first; otherwise the table of methods decides."""
    tuning_subjects: list[str] = []
    """The subjects to tune on, which the comparison leaves out (none given: those marked so)."""
    tuning_trials: PositiveInt = 3
    """Rates tried for each arm to begin with, half a decade apart."""
    tuning_limit: PositiveInt = 5
    """Rates tried for each arm at most, when the best lies at the edge of the range of some arm."""
    tuning_alphas: Annotated[list[PositiveFloat], Field(min_length=1)] = [1.0]
    """Values of alpha / rank tried with each rate."""
    clip_t_floor: Fraction = 0.8
    """A trial whose CLIP-T falls below this share of the ideal pictures' is chosen only if all do."""
    dino: str | None = None
    """sprite, a hub id or a folder (None: sprite for its own base, else facebook/dino-vits16)."""
    clip: str | None = None
    """sprite, a hub id or a folder (None: sprite for its own base, else openai/clip-vit-base-patch32)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base."""
    margin_fraction: Fraction = 0.02
    """Non-inferiority margin, as a part of the span between the base's score and the ideal pictures'."""
    train: dict[str, Any] = {}
    """Other settings of symdream train for every cell alike, such as targets = "qk"."""

    @property
    def scored_steps(self) -> list[int]:
        """The steps after which pictures are drawn, ascending: evenly spaced, and the last of the run."""
        count = min(self.points, self.steps)
        return [self.steps // count * (i + 1) for i in range(count - 1)] + [self.steps]


def build(flags: Mapping[str, Any], preset: str | None = None, file: Path | None = None) -> Grid:
    """Flags over a TOML file over a preset, checked.

    Raises: Problems telling all that is wrong, with what was perhaps meant; RequestError if a file cannot be read.
    """
    if preset is not None and preset not in PRESETS:
        what = f"No preset {preset}{did_you_mean(preset, PRESETS) or '.'}"
        raise RequestError(what, fix=f"choose {', '.join(PRESETS)}")
    chosen = {"name": preset, **PRESETS[preset]} if preset else {}
    chosen |= settings.read_toml(file) if file else {}
    return check({**chosen, **flags}, str(file) if file else "the request")


def check(values: Mapping[str, Any], where: str) -> Grid:
    """The grid of these values, all problems told at once. Raises: Problems."""
    problems: list[Problem] = []
    try:
        grid = Grid.model_validate(dict(values))
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        # What is right is checked further.
        wrong = {e["loc"][0] for e in error.errors()}
        grid = Grid.model_validate({name: value for name, value in values.items() if name not in wrong})
    problems += _conflicts(grid)
    try:
        subjects = subjects_of(grid)
    except RequestError as error:
        problems += problems_of(error, "data")
    else:
        if grid.data is not None:
            grid = grid.model_copy(update={"layout": "dreambooth" if is_data_set(grid.data) else "samples"})
        problems += unknown_subjects(grid.subjects, subjects, "subjects")
        if grid.tune:
            problems += unknown_subjects(grid.tuning_subjects, subjects, "tuning_subjects")
        if grid.tune and not tuning_subjects(grid, subjects):
            problems.append(Problem("tune", "needs tuning_subjects: none of these subjects is marked for tuning"))
        shared = set(grid.subjects) & set(tuning_subjects(grid, subjects)) if grid.tune else set()
        problems += [
            Problem(f"subjects = {name}", "is tuned on, so it cannot be compared on") for name in sorted(shared)
        ]
        problems += _not_held_out(grid, subjects) if grid.tune else []
    problems += [
        Problem(f"subjects = {name}", "is left out, as the settings were tuned on it or left_out names it")
        for name in sorted(set(grid.subjects) & set(grid.left_out))
    ]
    if problems:
        raise Problems(where, problems)
    return grid


def _conflicts(grid: Grid) -> list[Problem]:
    from symdream.diffusion.names import resolve_name

    problems = []
    for key in grid.train:
        if key in FIXED_BY_GRID:
            problems.append(Problem(f"train.{key}", "is decided by the grid, for all cells alike"))
        elif key not in settings.fields():
            problems.append(Problem(f"train.{key}", "unknown setting" + did_you_mean(key, settings.fields())))
    for key in ("methods", "ranks", "subjects", "training_seeds", "image_seeds"):
        values = getattr(grid, key)
        if len(set(values)) < len(values):
            problems.append(Problem(key, "names something twice"))
    if grid.tuning_limit < grid.tuning_trials:
        problems.append(Problem("tuning_limit", f"is below tuning_trials, {grid.tuning_trials}"))
    if grid.layout == "dreambooth" and grid.data is None:
        problems.append(Problem("data", "is needed: the folder of the public data set, --data FOLDER"))
    with collected(problems, f"base = {grid.base}"):
        resolve_name(grid.base)
    return problems


def subjects_of(grid: Grid) -> dict[str, BenchSubject]:
    return read_subjects(grid.data, embedded=grid.base == EMBEDDED)


def _not_held_out(grid: Grid, subjects: Mapping[str, BenchSubject]) -> list[Problem]:
    """One problem for each compared subject that would be reported on prompts which choices may be made by."""
    problems = []
    for subject in (subjects[name] for name in compared_subjects(grid, subjects) if name in subjects):
        if shared := [prompt for prompt in prompts_of(grid, subject) if prompt in subject.selection]:
            told = (
                f'would be reported on {len(shared)} prompts that are not held out, "{shared[0]}" for one (write into '
                f"{subject.folder / 'prompts.toml'} prompts for the report, with held_out = true, and others to tune "
                "by, with held_out = false; or take --fixed)"
            )
            problems.append(Problem(f"subjects = {subject.name}", told))
    return problems


def compared_subjects(grid: Grid, subjects: Mapping[str, BenchSubject]) -> list[str]:
    """The subjects of the report: those asked for, else all that are neither tuned on nor left out."""
    left_out = {name for name, subject in subjects.items() if subject.tuning} | set(grid.left_out)
    if grid.tune:
        left_out |= set(tuning_subjects(grid, subjects))
    return grid.subjects or [name for name in subjects if name not in left_out]


def tuning_subjects(grid: Grid, subjects: Mapping[str, BenchSubject]) -> list[str]:
    return grid.tuning_subjects or [name for name, subject in subjects.items() if subject.tuning]


def prompts_of(grid: Grid, subject: BenchSubject) -> list[str]:
    """The prompts that the grid draws of this subject."""
    return subject.prompts[: grid.prompts_per_subject or None]


def to_toml(grid: Grid) -> str:
    import tomli_w

    lines = []
    for name, value in grid.model_dump(mode="json").items():
        told = f"# {Grid.model_fields[name].description}"
        if name == "train":
            continue
        lines += [told, f"# {name}: not set" if value is None else tomli_w.dumps({name: value}).rstrip("\n"), ""]
    if grid.train:
        lines += [tomli_w.dumps({"train": grid.train})]
    return "\n".join(lines)


def _problem(error: Mapping[str, Any]) -> Problem:
    key = ".".join(str(part) for part in error["loc"] if isinstance(part, str)) or "grid"
    if error["type"] == "extra_forbidden":
        return Problem(key, "unknown key" + did_you_mean(key, list(Grid.model_fields)))
    message = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] == "literal_error":
        names = get_args(MethodName) if key == "methods" else ()
        message += did_you_mean(error["input"], names)
    return Problem(f"{key} = {error['input']}", message)
