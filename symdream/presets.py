"""Settings that go together, by name: what `--preset`, or `preset = …` in a TOML file, starts from.

Whatever a flag or the TOML file sets wins over the preset, and the preset wins over the defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """`why`: one sentence for the help. `settings`: nested as in a TOML file."""

    why: str
    settings: dict[str, dict[str, Any]]


PRESETS: dict[str, Preset] = {
    "quick": Preset("a first look: half the steps of the default", {"training": {"steps": 100}}),
    # Rank 16: where SingLoRA passes LoRA of rank 8 in the paper's table 3, at LoRA's number of parameters.
    "quality": Preset(
        "the best that the photos give: rank 16, up to 600 steps, ended when pictures drawn on the way get no better, "
        "and of all steps and weights the best",
        {
            "adapter": {"rank": 16},
            "training": {"steps": 600},
            "selection": {"validate_every": 50, "select_every": 50, "patience": 3},
        },
    ),
    # What the paper leaves unsaid (batch, alpha, schedule, resolution, the ramp for images) stays the default;
    # the ramp's default is the 1 % of the steps of its appendix A.1.
    "paper": Preset(
        "SingLoRA's DreamBooth protocol (arXiv:2507.05566, section 6.2): queries and keys of the UNet alone, 400 steps "
        'at 1e-3, "a photo of a sks CLASS"; its table has rank 8 and 16',
        {
            "subject": {"trigger": "sks", "template": "a photo of a {subject}"},
            "adapter": {"targets": "qk", "components": "unet"},
            "training": {"steps": 400, "lr": 1e-3},
        },
    ),
}


def explained() -> str:
    """The presets for the help, a sentence each."""
    return "; ".join(f"{name}: {preset.why}" for name, preset in PRESETS.items()) + ". What is set otherwise wins."


def apply(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str] | None]:
    """Put the preset that nested `settings` name under them.

    Returns the settings and what the preset decided, as "rank = 16" (None without a preset; one that does not exist
    is left for `symdream.settings.build` to refuse). With [[subjects]] its words go to each of them.
    """
    merged = dict(settings)
    preset = PRESETS.get(merged["preset"]) if isinstance(merged.get("preset"), str) else None
    if preset is None:
        return merged, None
    chosen = []
    for section, values in preset.settings.items():
        if section == "subject" and isinstance(merged.get("subjects"), list):
            # A trigger for all would make several subjects one.
            merged["subjects"] = [
                {"template": values["template"], **subject} if isinstance(subject, Mapping) else subject
                for subject in merged["subjects"]
            ]
            continue
        given = merged.get(section, {})
        if isinstance(given, Mapping):
            if given.get("select_every") == 0:  # the patience of a selection goes with it
                values = {name: value for name, value in values.items() if name != "patience"}
            chosen += [f"{name} = {value}" for name, value in values.items() if name not in given]
            merged[section] = {**values, **given}
    return merged, chosen
