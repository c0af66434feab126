"""Makes PEFT know the two tuners.

`peft.utils.register_peft_method` refuses names outside PEFT's own enum, so the three tables that it would fill are
filled here. They are not a documented interface: PEFT's version is bounded in pyproject.toml, and tests/tuners checks
every way through them.
"""

from __future__ import annotations

from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

from symdream.tuners.config import SingLoraConfig, SymLoraConfig, TunerType
from symdream.tuners.model import SingLoraModel, SymLoraModel

TUNERS = {
    TunerType.SINGLORA: (SingLoraConfig, SingLoraModel),
    TunerType.SYMLORA: (SymLoraConfig, SymLoraModel),
}


def register() -> None:
    """Add SINGLORA and SYMLORA to PEFT's tables (again and again, to the same effect)."""
    for name, (config, model) in TUNERS.items():
        # A saved config names its tuner by a plain string, which finds these keys: the enum's members equal it.
        PEFT_TYPE_TO_CONFIG_MAPPING[name] = config
        PEFT_TYPE_TO_TUNER_MAPPING[name] = model
        PEFT_TYPE_TO_PREFIX_MAPPING[name] = model.prefix
