"""What a file says about the strength and shape of its layers, in whichever way its layout has. Needs no torch."""

from __future__ import annotations

import json
import math
import re
import reprlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symdream.errors import RequestError
from symdream.interop.grouping import WEIGHTS
from symdream.interop.header import AdapterHeader
from symdream.interop.keys import Place, without_text_model
from symdream.interop.metadata import PEFT_METADATA, our_metadata

PEFT_CONFIG = "adapter_config.json"
# PEFT's initialisations that also change the base's weights
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


class Strength:
    """Reads what stands beside the weights of one file: its metadata, and PEFT's adapter_config.json."""

    def __init__(self, path: Path, header: AdapterHeader, layout: str):
        self.path, self.layout = path, layout
        self.ours = our_metadata(header)
        self.peft = header.json(PEFT_METADATA)
        config = path.parent / PEFT_CONFIG
        self.unclear = config.is_file() and not self._is_the_configs()
        self.config = _read_config(config) if config.is_file() and not self.unclear else None
        self.notes: list[str] = []

    def _is_the_configs(self) -> bool:
        """Whether PEFT's configuration beside the file is of it: by PEFT's own name, or as there is no other file."""
        alone = self.layout in ("peft", "native") and len(list(self.path.parent.glob("*.safetensors"))) == 1
        return self.path.name == WEIGHTS or alone

    def plain(self, place: Place, rank: int, alpha: float | None) -> float:
        """LoRA's scale: from the layer's own alpha, else PEFT's configuration, else 1."""
        if alpha is not None:
            return alpha / rank
        config = self._lora_config(place.component)
        if not config and self.layout == "peft" and not self.notes:
            missing = f"there is no {PEFT_CONFIG} beside this PEFT file"
            if self.unclear:
                missing = f"the {PEFT_CONFIG} beside this PEFT file may be of another file there"
            self.notes.append(f"{missing}: alpha is taken to be the rank")
        return _peft_scale(config, place.module, rank, self._where)

    def check_base(self, component: str) -> None:
        """Raises: RequestError if the adapter belongs to a base whose weights its training changed at the start."""
        init = self._lora_config(component).get("init_lora_weights")
        if isinstance(init, str) and init.lower().startswith(CHANGES_BASE):
            raise RequestError(
                f"This adapter was begun with init_lora_weights={init!r}, which changes the base's own weights: on the "
                "base as it is, it would be wrong.",
                fix="save it with PEFT's path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
            )

    def _lora_config(self, component: str) -> Mapping[str, Any]:
        """What PEFT calls LoraConfig, from beside the file or from its metadata; empty if neither has it."""
        if self.config or "r" in self.peft:  # of one component alone
            return self.config or self.peft
        prefix = component + "."
        return {k.removeprefix(prefix): v for k, v in self.peft.items() if k.startswith(prefix)}

    @property
    def _where(self) -> str:
        return str(self.path.parent / PEFT_CONFIG) if self.config else f"the metadata of {self.path}"

    def symmetric(self) -> tuple[float, float]:
        """(alpha, u) of SingLoRA and SymLoRA. Raises: RequestError if they are not told."""
        config = self.config or self.ours
        alpha, u = config.get("alpha"), config.get("u")
        if not _is_number(alpha):
            raise RequestError(
                f"{self.path.name} does not tell its alpha, and without it its strength is unknown.",
                fix=f"keep it as {WEIGHTS} with its {PEFT_CONFIG} beside it, or give the run folder",
            )
        if not (u is None or _is_number(u)):
            raise _malformed("u", u, "a number", self._where)
        return float(alpha), 1.0 if u is None else float(u)

    def shape(self, place: Place, n: int) -> tuple[int, int] | None:
        """(out, in) of a symmetric layer whose A is n wide, None if the file is of a kind that does not tell."""
        shapes = self.ours.get("shapes")
        if not isinstance(shapes, dict):
            return None
        shape = shapes.get(without_text_model(place.module), [n, n])
        if not (isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and side > 0 for side in shape)):
            raise _malformed("shapes", shape, f"the (out, in) of {place.module}", self._where)
        return tuple(shape)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{path} is not valid JSON: {error}.") from None
    if not isinstance(config, dict):
        raise RequestError(f"{path} holds no JSON object.")
    return config


def _is_number(value: Any) -> bool:
    """Whether it is one to calculate with: neither true nor infinite, which JSON of Python's may hold."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _malformed(key: str, value: Any, expected: str, where: str) -> RequestError:
    return RequestError(
        f"{key} is {reprlib.repr(value)}, where {expected} is expected.",
        where=where,
        fix="get the file again, or save it again with the tool that made it",
    )


def _peft_scale(config: Mapping[str, Any], module: str, rank: int, where: str) -> float:
    alpha, pattern_alphas = config.get("lora_alpha", rank), config.get("alpha_pattern") or {}
    if not _is_number(alpha):
        raise _malformed("lora_alpha", alpha, "a number", where)
    if not isinstance(pattern_alphas, dict) or not all(map(_is_number, pattern_alphas.values())):
        raise _malformed("alpha_pattern", pattern_alphas, "a number for each pattern", where)
    # PEFT's rule: regular expressions for the whole name or its end, of which the first that fits holds.
    for pattern, value in pattern_alphas.items():
        try:
            ends = re.compile(rf"(.*\.)?({pattern})$")
        except (re.error, OverflowError, RecursionError) as error:
            raise RequestError(f"alpha_pattern {pattern!r} is no regular expression: {error}.") from None
        if ends.match(module) or ends.match(without_text_model(module)):
            alpha = value
            break
    return alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
