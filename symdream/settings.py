"""How the settings of a run come together: from TOML and flags, checked once, told in words, and written as TOML.

All problems of a request are told at once, an unknown key with the one that was meant.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from symdream.config import OneOfSubjects, Section, TrainConfig
from symdream.config_conflicts import conflicts
from symdream.errors import Problem, Problems, RequestError, did_you_mean


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


def build(settings: Mapping[str, Any], where: str = "the settings", checks: Sequence[Check] = ()) -> TrainConfig:
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
                for i, entry in enumerate(values)
                if isinstance(entry, Mapping)
            ]
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
    if error["type"] == "string_too_short":
        return Problem(key, "is empty" + _default(location))
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
