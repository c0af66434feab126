"""The options of the two tuners, as PEFT configs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import StrEnum

from peft import PeftConfig

from symdream.errors import Problem, Problems
from symdream.tuners.symmetric import INITS


class TunerType(StrEnum):
    """The names that PEFT knows the tuners by.

    PEFT's own enum is closed to third parties. Strings for PEFT's tables; an enum since transformers asks for .value.
    """

    SINGLORA = "SINGLORA"
    SYMLORA = "SYMLORA"


class ConfigError(Problems, ValueError):
    """All that is wrong with an adapter's options, told together."""


@dataclass
class SymmetricConfig(PeftConfig):
    """Options that SingLoRA and SymLoRA share. Raises ConfigError (a ValueError) naming every bad option."""

    r: int = field(default=8, metadata={"help": "Rank: rows of A. At most min(in, out) of every targeted layer."})
    alpha: float | None = field(
        default=None, metadata={"help": "Strength: the update is multiplied by alpha / r. None means r."}
    )
    target_modules: list[str] | set[str] | str | None = field(
        default=None,
        metadata={
            "help": "Linear layers to adapt: names (matched at the end of the full name), one regular expression "
            "for the full name, or 'all-linear'. None: PEFT's choice for known transformers models."
        },
    )
    exclude_modules: list[str] | set[str] | str | None = field(
        default=None, metadata={"help": "Layers left alone although targeted: names or one regular expression."}
    )
    layers_to_transform: list[int] | int | None = field(
        default=None, metadata={"help": "Only blocks with these indices; target_modules must then be a list."}
    )
    layers_pattern: list[str] | str | None = field(
        default=None, metadata={"help": "Name of the list of blocks that layers_to_transform counts in."}
    )
    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Other modules to train in full and to save with the adapter."}
    )
    dropout: float = field(
        default=0.0, metadata={"help": "Probability of dropping an entry of the adapter's input in training."}
    )
    init_weights: str = field(
        default="kaiming",
        metadata={"help": "Start of A: 'kaiming', U(-n^-1/2, n^-1/2), as in the papers; 'small', a tenth of it."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        problems = list(self._problems())
        if problems:
            raise ConfigError(type(self).__name__, problems)
        self.alpha = float(self.r) if self.alpha is None else self.alpha
        if isinstance(self.target_modules, list):
            self.target_modules = set(self.target_modules)
        if isinstance(self.exclude_modules, list):
            self.exclude_modules = set(self.exclude_modules)

    def _problems(self):
        if not _is_integer(self.r) or self.r < 1:
            yield Problem(f"r = {self.r!r}", "must be a whole number of at least 1 (default 8)")
        if self.alpha is not None and not (_is_number(self.alpha) and self.alpha > 0):
            yield Problem(f"alpha = {self.alpha!r}", "must be a number above 0 (default: r)")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            yield Problem(f"dropout = {self.dropout!r}", "must be at least 0 and below 1 (default 0)")
        if not isinstance(self.init_weights, str) or self.init_weights not in INITS:
            yield Problem(f"init_weights = {self.init_weights!r}", f"must be one of {', '.join(INITS)}")
        if isinstance(self.target_modules, (list, set, tuple)) and not self.target_modules:
            yield Problem("target_modules = []", "names no layer; give at least one name")
        if isinstance(self.target_modules, str):
            for name in ("layers_to_transform", "layers_pattern"):
                if getattr(self, name) is not None:
                    yield Problem(name, "needs target_modules as a list of names, not as one expression")
        if self.layers_pattern is not None and self.layers_to_transform is None:
            yield Problem("layers_pattern", "has no effect without layers_to_transform")


@dataclass
class SingLoraConfig(SymmetricConfig):
    """SingLoRA (arXiv:2507.05566): dW = (alpha / r) u A_out A_in^T, with one trained A (r, n) a layer.

    A starts at random, not at zero: train with a ramp of `u` from 0 to 1 (`set_ramp`).
    """

    u: float = field(default=1.0, metadata={"help": "The ramp's present value, 0 to 1; kept up to date by `set_ramp`."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TunerType.SINGLORA

    def _problems(self):
        yield from super()._problems()
        if not _is_number(self.u) or not 0 <= self.u <= 1:
            yield Problem(f"u = {self.u!r}", "must be between 0 and 1 (default 1)")


@dataclass
class SymLoraConfig(SymmetricConfig):
    """SymLoRA (arXiv:2504.03719): dW = (alpha / r) A_out diag(Lambda) A_in^T, with trained A (r, n) and Lambda (r,).

    Lambda starts at 0: the adapted model starts as the base itself, exactly.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = TunerType.SYMLORA


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
