"""The settings of a training run: one sentence each, read by TOML, the command line, the app and the help.

Sections are TOML tables; field names are unique over all sections, so that a flag needs no prefix
(`[adapter] rank = 8` is `--rank 8`). `None` means "the default of the chosen method or base".
An unknown key is an error, and all problems of a request are told at once.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from symdream.errors import Problem, Problems, RequestError, did_you_mean

MethodName = Literal["lora", "lora+", "dora", "singlora", "symlora"]
PresetName = Literal["quick", "quality", "paper"]
PositiveInt = Annotated[int, Field(ge=1, lt=2**63)]
NonNegativeInt = Annotated[int, Field(ge=0, lt=2**63)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


PRODIGY_LR = 1.0  # its authors': the estimated step size as it is


class Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class Subject(Section):
    """Who is learned, and from which photos."""

    images: Path | None = None
    """Folder with 3 to 6 photos of one subject; a .txt beside a photo is its caption."""
    class_noun: str | None = Field(default=None, min_length=1)
    """What the subject is, as the base would call it: "dog", "backpack"."""
    trigger: str = Field(default="sks", min_length=1, pattern=r"\S")
    """The word that will stand for the subject; best one token that means nothing."""
    template: str | None = None
    """Caption of a photo without a .txt; {subject} becomes trigger and class noun (None: the base's)."""


class OneOfSubjects(Subject):
    """One of several subjects that are learned in one run, each by its own trigger."""

    repeats: PositiveInt = 1
    """How often each of its photos counts beside those of the other subjects."""


class Data(Section):
    """How photos and captions become training samples."""

    buckets: bool = False
    """Keep the shape of photos: each step trains on one of several picture sizes (off: squares)."""
    crop: Literal["center", "random"] = "center"
    """What of a photo is shown that does not fit: its middle, or one of 4 places along the longer side."""
    flip: bool = False
    """Half of the samples show the photo mirrored; not for subjects with writing or an unlike left and right."""
    tag_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a comma-separated tag of a caption is left out of a sample (tags with the trigger stay)."""
    caption_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a sample has an empty caption."""
    mask_strength: Fraction = 1.0
    """How little what lies outside of a mask (alpha, or NAME_mask.png) counts in the loss: 1 nothing, 0 as the rest."""
    cache_dir: Path | None = None
    """Where latents, text embeddings and class images are kept (None: $SYMDREAM_CACHE, else ~/.cache/symdream)."""


class Prior(Section):
    """Prior preservation: class images are trained on beside the photos, so that "a dog" stays any dog."""

    class_count: NonNegativeInt = 0
    """How many class images the base draws, once, to train on beside the photos (0: none; 100 is usual)."""
    class_images: Path | None = None
    """Folder with class images, instead of letting the base draw them."""
    class_prompt: str | None = Field(default=None, min_length=1)
    """Caption of the class images (None: the template with the class noun alone)."""
    prior_loss_weight: PositiveFloat = 1.0
    """How much the class images count in the loss, compared with the photos."""

    @property
    def wanted(self) -> bool:
        return bool(self.class_count or self.class_images)


class Model(Section):
    """Which Stable Diffusion is taught, and where it runs."""

    base: str = Field(default="sprite", min_length=1)
    """sprite (embedded), sd15, sdxl, a hub id, a diffusers folder, or a .safetensors checkpoint."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the frozen base: auto is bf16 where native, else fp16 on a GPU, fp32 on a CPU."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to train: auto takes a GPU when there is one."""
    resolution: Annotated[int, Field(ge=64, multiple_of=8)] | None = None
    """Side of the square training images in pixels (None: the base's own)."""


class Adapter(Section):
    """Which adapter is trained, how large, and where it sits."""

    method: MethodName = "singlora"
    """lora, lora+, dora, singlora or symlora."""
    rank: PositiveInt = 8
    """Rank r of the update."""
    alpha: PositiveFloat | None = None
    """The update is scaled by alpha / rank (None: alpha = rank)."""
    targets: Literal["qk", "qkvo"] = "qkvo"
    """Which attention projections: queries and keys, or values and outputs too."""
    init: Literal["kaiming", "small"] | None = None
    """SingLoRA, SymLoRA: size of A at the start, but for what start_from brings; small: a tenth of kaiming (None)."""
    start_from: Path | None = None
    """Go on from the adapter of a run, a folder or a LoRA file instead of a fresh one (None: fresh)."""
    components: Literal["unet", "text_encoder", "both"] = "both"
    """Which part is trained: the UNet, the text encoder, or both."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the input of the adapter."""
    ramp: Fraction | None = None
    """SingLoRA: fraction of the steps over which u(t) grows from 0 to 1 (None: the method's; 0: u = 1 at once)."""


class Training(Section):
    """How long and how fast it learns."""

    steps: PositiveInt = 200
    """Optimizer steps."""
    batch_size: PositiveInt = 4
    """Images in one forward pass (each process)."""
    accumulation: PositiveInt = 1
    """Forward passes whose gradients are averaged into one optimizer step."""
    lr: PositiveFloat | None = None
    """Learning rate of the UNet's adapter (None: the method's)."""
    text_encoder_lr: PositiveFloat | None = None
    """Learning rate of the text encoder's adapter (None: the method's)."""
    lambda_lr: PositiveFloat | None = None
    """SymLoRA: learning rate of Λ (None: the method's)."""
    lora_plus_ratio: PositiveFloat | None = None
    """LoRA+: how many times faster B learns than A (None: the method's)."""
    lr_schedule: Literal["constant", "linear", "cosine"] | None = None
    """How the learning rate falls after the warm-up (None: cosine on sprite, else constant)."""
    warmup: Fraction = 0.0
    """Fraction of the steps over which the learning rate grows from 0."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """adamw, adamw8bit (a quarter of its memory; needs bitsandbytes), or prodigy (finds its rate; prodigyopt)."""
    weight_decay: NonNegativeFloat = 1e-4
    """The optimizer's decoupled weight decay."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm (0: never)."""
    engine: Literal["auto", "eager", "graph"] = "auto"
    """How a step runs: op by op, or replayed from CUDA graphs (auto: graph on CUDA, eager elsewhere)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third slower."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """All that is drawn at random follows from it."""


class Loss(Section):
    """What the error of a prediction counts."""

    min_snr_gamma: PositiveFloat | None = None
    """Min-SNR weighting (arXiv:2303.09556) with this γ, 5 in the paper (None: every timestep counts the same)."""
    noise_offset: NonNegativeFloat = 0.0
    """Strength of noise shared by a whole picture, for very dark and very bright ones (0: none; 0.1 is usual)."""
    zero_terminal_snr: bool = False
    """Let the last timestep be noise alone (arXiv:2305.08891); only for bases that predict v."""


class Selection(Section):
    """How many steps, which checkpoint, what strength: measured while training. Off, unless a preset turns it on."""

    validate_every: NonNegativeInt = 0
    """Steps between looks at the loss on images, timesteps and noises that never change (0: none)."""
    select_every: NonNegativeInt = 0
    """Steps between scores (DINO, CLIP-T) of pictures drawn so far; the best step and weight win (0: the last)."""
    patience: NonNegativeInt = 0
    """End after so many scores in a row that were not the best (0: train all steps)."""
    dino: str | None = Field(default=None, min_length=1)
    """DINO of the scores: sprite, a hub id or a folder (None: sprite for its own base, else facebook/dino-vits16)."""
    clip: str | None = Field(default=None, min_length=1)
    """CLIP of the scores, likewise (None: sprite for its own base, else openai/clip-vit-base-patch32)."""


class Output(Section):
    """What is written, where, and how often."""

    output: Path | None = None
    """Run folder (None: a new one under ./runs)."""
    overwrite: bool = False
    """Replace the run folder if there is one (a run's own config.toml never says so)."""
    checkpoint_every: NonNegativeInt = 100
    """Steps between checkpoints (0: only the last)."""
    keep: PositiveInt = 2
    """How many of the newest checkpoints stay."""
    sample_every: NonNegativeInt = 0
    """Steps between sample pictures (0: none while training)."""
    sample_prompts: list[str] = []
    """Prompts of the samples; {subject} becomes trigger and class noun (none given: the caption template)."""
    tensorboard: bool = True
    """Write TensorBoard event files beside metrics.jsonl."""
    wandb: bool = False
    """Log to Weights & Biases too (needs wandb; WANDB_MODE=offline keeps it in the run folder)."""


class TrainConfig(Section):
    """Everything that decides a run. `config.toml` in the run folder is this, complete."""

    preset: PresetName | None = None
    """Settings to start from; what is given otherwise wins. In a complete config.toml it has nothing left to do."""
    subject: Subject = Subject()
    subjects: list[OneOfSubjects] = []
    """Several subjects in one run, as [[subjects]] tables in place of [subject]."""
    data: Data = Data()
    prior: Prior = Prior()
    model: Model = Model()
    adapter: Adapter = Adapter()
    training: Training = Training()
    loss: Loss = Loss()
    selection: Selection = Selection()
    output: Output = Output()

    @property
    def learned(self) -> Sequence[Subject]:
        """The subjects of the run, one or several: the very objects of the config."""
        return self.subjects or [self.subject]


def conflicts(config: TrainConfig) -> list[Problem]:
    """Settings that are each valid but do nothing, or contradict each other, together."""
    problems = []
    method = config.adapter.method
    for key, value, owner in (
        ("adapter.ramp", config.adapter.ramp, "singlora"),
        ("training.lambda_lr", config.training.lambda_lr, "symlora"),
        ("training.lora_plus_ratio", config.training.lora_plus_ratio, "lora+"),
    ):
        if value is not None and method != owner:
            problems.append(Problem(key, f"belongs to method {owner}; this run trains {method}"))
    if config.adapter.init is not None and method not in ("singlora", "symlora"):
        problems.append(Problem("adapter.init", f"belongs to singlora and symlora; this run trains {method}"))
    if config.adapter.components == "unet" and config.training.text_encoder_lr is not None:
        problems.append(Problem("training.text_encoder_lr", "does nothing: components = unet trains no text encoder"))
    if not config.selection.select_every:
        for name in ("patience", "dino", "clip"):
            if getattr(config.selection, name):
                problems.append(Problem(f"selection.{name}", "does nothing without select_every"))
    return problems + one_rate_problems(config) + data_conflicts(config)


def one_rate_problems(config: TrainConfig) -> list[Problem]:
    """Prodigy estimates one step size for all parameters and takes no second rate."""
    training = config.training
    if training.optimizer != "prodigy":
        return []
    problems = []
    if config.adapter.method == "lora+":
        problems.append(Problem("training.optimizer = prodigy", "has one rate for all; LoRA+ is two rates"))
    for name in ("text_encoder_lr", "lambda_lr"):
        rate = getattr(training, name)
        if rate is not None and rate != (training.lr or PRODIGY_LR):
            problems.append(Problem(f"training.{name} = {rate}", "prodigy has one rate for all: leave it out"))
    return problems


def data_conflicts(config: TrainConfig) -> list[Problem]:
    """Conflicts of [subject], [[subjects]] and [prior]."""
    problems = []
    prior, subjects = config.prior, config.subjects
    if subjects and config.subject != Subject():
        given = [name for name in Subject.model_fields if getattr(config.subject, name) != getattr(Subject(), name)]
        problems += [Problem(f"subject.{name}", "does not go with [[subjects]], which say it each") for name in given]
    if len(subjects) == 1 and subjects[0].repeats > 1:
        problems.append(Problem("subjects[1].repeats", "does nothing: there is no other subject to count beside"))
    triggers = [subject.trigger.lower() for subject in subjects]  # the tokenizer knows no case
    for trigger in sorted({trigger for trigger in triggers if triggers.count(trigger) > 1}):
        problems.append(Problem(f"subjects: trigger = {trigger}", "stands for two subjects; each needs its own"))
    if prior.class_images and prior.class_count:
        problems.append(Problem("prior.class_count", "does not go with class_images: they are given or drawn"))
    if not prior.wanted:
        for name in ("class_prompt", "prior_loss_weight"):
            if getattr(prior, name) != getattr(Prior(), name):
                problems.append(Problem(f"prior.{name}", "does nothing without class_count or class_images"))
    if len({subject.class_noun for subject in subjects}) > 1:
        for name in ("class_images", "class_prompt"):
            if getattr(prior, name):
                problems.append(Problem(f"prior.{name}", "is one class, the subjects are of several: take class_count"))
    return problems


def fields(model: type[Section] = TrainConfig) -> dict[str, tuple[str, Any]]:
    """Every setting by its flat name: (its section, its pydantic field)."""
    found: dict[str, tuple[str, Any]] = {}
    for section, info in sections(model).items():
        for name, setting in info.annotation.model_fields.items():
            assert name not in found, f"two settings are called {name}"
            found[name] = (section, setting)
    return found


def sections(model: type[Section] = TrainConfig) -> dict[str, Any]:
    """The tables with one value a setting: all but the list [[subjects]], which has no flags, and `preset`."""
    return {k: v for k, v in model.model_fields.items() if isinstance(v.default, Section)}


def read_toml(path: Path) -> dict[str, Any]:
    """The nested settings of a TOML file.

    Raises: RequestError if it cannot be read or is not TOML (with line and column).
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RequestError(f"No settings file {path}.") from None
    except IsADirectoryError:
        raise RequestError(f"{path} is a folder, not a settings file.") from None
    except UnicodeDecodeError as error:
        raise RequestError(f"{path} is not a text file: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise RequestError(f"{path} is not valid TOML: {error}.") from None


def merge(settings: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Lay flat command-line values over nested settings; the command line wins."""
    merged = {k: dict(v) if isinstance(v, Mapping) else v for k, v in settings.items()}
    where = {name: section for name, (section, _) in fields().items()}
    for name, value in flags.items():
        section = merged.setdefault(where[name], {})
        if isinstance(section, dict):  # else it is told, in words, when the settings are built
            section[name] = value
    return merged


Check = Callable[[TrainConfig], list[Problem]]


def build(
    settings: Mapping[str, Any], where: str = "the settings", checks: Sequence[Check] = ()
) -> TrainConfig:
    """Validate nested settings once; `checks` look further (files, the machine) and add their problems.

    Raises: Problems, naming every wrong key and value, with "did you mean" for unknown ones.
    """
    problems: list[Problem] = []
    try:
        config = TrainConfig.model_validate(settings)
    except ValidationError as error:
        problems = [_problem(e) for e in error.errors()]
        # What is right is checked further, so that the user hears of everything at once.
        config = TrainConfig.model_validate(_without(settings, error))
    told = {_key(problem) for problem in problems}
    for check in (conflicts, *checks):
        # A wrong value was taken out above: that it is missing now is no news.
        problems += [problem for problem in check(config) if _key(problem) not in told]
    if problems:
        raise Problems(where, problems)
    return config


def _key(problem: Problem) -> str:
    return problem.key.partition(" = ")[0]


def _without(settings: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    wrong = {tuple(e["loc"][: 3 if e["loc"][0] == "subjects" else 2]) for e in error.errors()}
    kept: dict[str, Any] = {}
    for section, values in settings.items():
        if (section,) in wrong:
            continue
        if isinstance(values, list):
            kept[section] = [
                {k: v for k, v in entry.items() if (section, i, k) not in wrong}
                for i, entry in enumerate(values) if isinstance(entry, Mapping)
            ]  # fmt: skip
        elif isinstance(values, Mapping):
            kept[section] = {k: v for k, v in values.items() if (section, k) not in wrong}
        else:
            kept[section] = values
    return kept


def _problem(error: Mapping[str, Any]) -> Problem:
    location = [str(part) for part in error["loc"] if isinstance(part, str)]
    numbers = [part for part in error["loc"] if isinstance(part, int)]
    key = ".".join(location[:2])
    if location[0] == "subjects" and numbers:
        key = f"subjects[{numbers[0] + 1}]" + "".join(f".{part}" for part in location[1:2])
    if error["type"] == "extra_forbidden":
        return Problem(key, "unknown key" + _did_you_mean(location))
    shown = key if isinstance(error["input"], Mapping) else f"{key} = {error['input']}"
    return Problem(shown, error["msg"][0].lower() + error["msg"][1:] + _default(location))


def _default(location: list[str]) -> str:
    known = fields()
    if len(location) < 2 or location[1] not in known or known[location[1]][1].default is None:
        return ""
    return f" (default {known[location[1]][1].default})"


# What other trainers call the same setting.
SYNONYMS = {
    "learning_rate": "lr",
    "unet_lr": "lr",
    "max_train_steps": "steps",
    "train_batch_size": "batch_size",
    "gradient_accumulation_steps": "accumulation",
    "instance_data_dir": "images",
    "pretrained_model_name_or_path": "base",
    "network_dim": "rank",
    "network_alpha": "alpha",
    "lr_scheduler": "lr_schedule",
    "lr_warmup_steps": "warmup",
    "checkpointing_steps": "checkpoint_every",
    "output_dir": "output",
    "snr_gamma": "min_snr_gamma",
    "rescale_betas_zero_snr": "zero_terminal_snr",
    "use_8bit_adam": "optimizer",
}


def _did_you_mean(location: list[str]) -> str:
    known = fields()
    name = location[-1]
    if location[0] == "subjects" and len(location) > 1:
        return did_you_mean(name, OneOfSubjects.model_fields) or f"; it knows {', '.join(OneOfSubjects.model_fields)}"
    if len(location) == 1 and name not in known:
        close = difflib.get_close_matches(name, list(TrainConfig.model_fields), 1)
        if close:
            return f"; did you mean [{close[0]}]?"
    if name in known:
        return f"; it belongs in [{known[name][0]}]"
    close = difflib.get_close_matches(name, [*known, *SYNONYMS], 1, cutoff=0.6)
    if not close:
        return f"; [{location[0]}] knows {', '.join(_names(location[0]))}" if _names(location[0]) else ""
    setting = SYNONYMS.get(close[0], close[0])
    section = known[setting][0]
    return f'; did you mean "{setting}"' + (f" in [{section}]?" if section != location[0] else "?")


def _names(section: str) -> list[str]:
    return [name for name, (owner, _) in fields().items() if owner == section]


def to_toml(config: TrainConfig) -> str:
    """The complete settings as TOML. TOML has no null: settings left to the method's default are comments.

    `overwrite` is false in it: what one call was allowed to replace, the next that reads the file is not.
    """
    import tomli_w

    lines = ["# preset: not set" if config.preset is None else f'preset = "{config.preset}"', ""]
    for section, info in sections(type(config)).items():
        values = getattr(config, section).model_dump(mode="json")
        if "overwrite" in values:
            values["overwrite"] = False
        lines.append(f"# {info.annotation.__doc__.splitlines()[0]}\n[{section}]")
        for name, value in values.items():
            lines.append(f"# {name}: not set" if value is None else tomli_w.dumps({name: value}).rstrip("\n"))
        lines.append("")
    for subject in config.subjects:
        lines += ["[[subjects]]", tomli_w.dumps(subject.model_dump(mode="json", exclude_none=True))]
    return "\n".join(lines)
