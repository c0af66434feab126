"""What the config.toml of a run means to another run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from symdream import presets, settings
from symdream.config import TrainConfig
from symdream.training.absolute_paths import with_absolute_paths
from symdream.ui import say

BESIDE = ("state.json", "env.json", "lock")  # one of these lies beside the config.toml of every run
# The settings that a run derives from others where they are not set, and writes into its config.toml as if they were.
# In this order: prodigy's rate of the text encoder follows from lr.
DERIVED = {
    "alpha": ("rank",),
    "ramp": ("method", "start_from"),
    "lr": ("method", "optimizer", "base", "components"),
    "text_encoder_lr": ("method", "optimizer", "base", "components", "lr"),
    "lr_schedule": ("base",),
    "resolution": ("base",),
    "template": ("base",),
}


def without_permission(path: Path, file: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the file at `path` without the `overwrite` that runs of earlier versions kept in theirs.

    It was the permission of the call that made the run. A file that is no run's, and the flags `given`, may say it.
    """
    output = file.get("output")
    if not isinstance(output, Mapping) or not output.get("overwrite") or not is_of_a_run(path):
        return dict(file)
    if not given.get("overwrite"):
        say(f"note: overwrite = true in {path} was for that run alone; --overwrite lets this one replace another.")
    return {**file, "output": {name: value for name, value in output.items() if name != "overwrite"}}


def is_of_a_run(path: Path) -> bool:
    return path.name == "config.toml" and any((path.parent / name).exists() for name in BESIDE)


def derived_anew(file: Mapping[str, Any], given: Mapping[str, Any], preset: str | None = None) -> dict[str, Any]:
    """The nested settings of a file without those that were only its defaults and that the flags make others.

    A value counts as a default where it is what the file's own settings derive: rank 8 and alpha 8. With --rank 16 it
    goes, so that alpha is derived anew, and a line says so. Other values, and flags, stay as they are.
    """
    kept = {section: dict(values) if isinstance(values, Mapping) else values for section, values in file.items()}
    where, before = settings.fields(), _read(file)
    for name, sources in DERIVED.items():
        merged = {**settings.merge(kept, given), **({"preset": preset} if preset else {})}
        after = _read(merged)
        if before is None or after is None:
            break  # a value is wrong, which is told when the settings are built
        changed = [source for source in sources if _value(before, source) != _value(after, source)]
        if not changed:
            continue
        old, new = _default(name, before), _default(name, after)
        if name in given or _is_of_preset(name, where[name][0], merged.get("preset")):
            continue  # what is left out would be the preset's, not the default
        tables = [kept.get(where[name][0], {})]
        if name == "template" and kept.get("subjects"):
            kept["subjects"] = [dict(subject) for subject in kept["subjects"]]
            tables += kept["subjects"]
        moved = [table for table in tables if name in table and table[name] == old != new]
        for table in moved:
            del table[name]
        if moved:
            value = f"{name} is left out" if new is None else f"{name} = {_shown(new)}"
            flags = [f"--{source.replace('_', '-')}" for source in changed if source in given] or ["--preset"]
            say(f"{value}, derived anew from {' and '.join(flags)} (the file's {_shown(old)} was its default)")
    return kept


def _read(nested: Mapping[str, Any]) -> TrainConfig | None:
    try:
        return TrainConfig.model_validate(presets.apply(nested)[0])
    except ValidationError:
        return None


def _is_of_preset(name: str, section: str, preset: Any) -> bool:
    return (
        isinstance(preset, str)
        and preset in presets.PRESETS
        and name in presets.PRESETS[preset].settings.get(section, {})
    )


def _value(config: TrainConfig, name: str) -> Any:
    return getattr(getattr(config, settings.fields()[name][0]), name)


def _default(name: str, config: TrainConfig) -> Any:
    # Not above: they need torch and PEFT, which take seconds, and a request without a file does not.
    from symdream.diffusion.names import EMBEDDED
    from symdream.diffusion.sizes import KNOWN
    from symdream.training.defaults import REAL_TEMPLATE, TEMPLATES, defaults_of

    base = config.model.base
    if name == "resolution":
        return KNOWN[base].resolution if base in KNOWN else "the base's own"
    if name == "template":
        return TEMPLATES.get(base, REAL_TEMPLATE)
    unset = config.model_copy(deep=True)
    setattr(getattr(unset, settings.fields()[name][0]), name, None)
    return defaults_of(unset, embedded=base == EMBEDDED)[name]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def differences(path: Path, asked: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Which of the settings `asked` (by flat name, `images` among them) are others in the run whose config.toml is at
    `path`: what it has, and what is asked. Paths are compared as the places that they mean.

    Raises: RequestError, Problems if one of the two cannot be read.
    """
    there = settings.build(settings.read_toml(path), str(path))
    here = with_absolute_paths(settings.build(settings.merge({}, asked), "the request"))
    pairs = {name: (_value(there, name), _value(here, name)) for name in asked}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
