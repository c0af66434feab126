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

from symdream.errors import Problem, Problems, RequestError

MethodName = Literal["lora", "lora+", "dora", "singlora", "symlora"]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
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
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls after the warm-up."""
    warmup: Fraction = 0.0
    """Fraction of the steps over which the learning rate grows from 0."""
    optimizer: Literal["adamw", "adamw8bit", "prodigy"] = "adamw"
    """adamw, adamw8bit (a quarter of its memory; needs bitsandbytes), or prodigy (finds its rate; prodigyopt)."""
    weight_decay: NonNegativeFloat = 1e-4
    """The optimizer's decoupled weight decay."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm (0: never)."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, about a third slower."""
    seed: NonNegativeInt = 0
    """All that is drawn at random follows from it."""


class Loss(Section):
    """What the error of a prediction counts."""

    min_snr_gamma: PositiveFloat | None = None
    """Min-SNR weighting (arXiv:2303.09556) with this γ, 5 in the paper (None: every timestep counts the same)."""
    noise_offset: NonNegativeFloat = 0.0
    """Strength of noise shared by a whole picture, for very dark and very bright ones (0: none; 0.1 is usual)."""
    zero_terminal_snr: bool = False
    """Let the last timestep be noise alone (arXiv:2305.08891); only for bases that predict v."""


class Output(Section):
    """What is written, where, and how often."""

    output: Path | None = None
    """Run folder (None: a new one under ./runs)."""
    overwrite: bool = False
    """Replace the run folder if there is one."""
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


class TrainConfig(Section):
    """Everything that decides a run. `config.toml` in the run folder is this, complete."""

    subject: Subject = Subject()
    model: Model = Model()
    adapter: Adapter = Adapter()
    training: Training = Training()
    loss: Loss = Loss()
    output: Output = Output()


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
    if config.adapter.components == "unet" and config.training.text_encoder_lr is not None:
        problems.append(Problem("training.text_encoder_lr", "does nothing: components = unet trains no text encoder"))
    return problems + one_rate_problems(config)


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


def fields(model: type[Section] = TrainConfig) -> dict[str, tuple[str, Any]]:
    """Every setting by its flat name: (its section, its pydantic field)."""
    found: dict[str, tuple[str, Any]] = {}
    for section, info in model.model_fields.items():
        for name, setting in info.annotation.model_fields.items():
            assert name not in found, f"two settings are called {name}"
            found[name] = (section, setting)
    return found


def read_toml(path: Path) -> dict[str, Any]:
    """The nested settings of a TOML file.

    Raises: RequestError if it cannot be read or is not TOML (with line and column).
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
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
        merged.setdefault(where[name], {})[name] = value
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
    for check in (conflicts, *checks):
        problems += check(config)
    if problems:
        raise Problems(where, problems)
    return config


def _without(settings: Mapping[str, Any], error: ValidationError) -> dict[str, Any]:
    wrong = {tuple(e["loc"][:2]) for e in error.errors()}
    return {
        section: {k: v for k, v in values.items() if (section, k) not in wrong}
        for section, values in settings.items()
        if (section,) not in wrong
    }


def _problem(error: Mapping[str, Any]) -> Problem:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location[:2])
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
    """The complete settings as TOML. TOML has no null: settings left to the method's default are comments."""
    import tomli_w

    lines = []
    for section, info in type(config).model_fields.items():
        values = getattr(config, section).model_dump(mode="json")
        lines.append(f"# {info.annotation.__doc__.splitlines()[0]}\n[{section}]")
        for name, value in values.items():
            lines.append(f"# {name}: not set" if value is None else tomli_w.dumps({name: value}).rstrip("\n"))
        lines.append("")
    return "\n".join(lines)
