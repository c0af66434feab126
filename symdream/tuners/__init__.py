"""SingLoRA and SymLoRA as PEFT tuners, and the table of methods. Importing this package registers them with PEFT."""

from symdream.tuners.config import ConfigError, SingLoraConfig, SymLoraConfig
from symdream.tuners.layer import SingLoraLinear, SymLoraLinear, SymmetricLinear
from symdream.tuners.methods import (
    METHODS,
    Method,
    count_parameters,
    get_method,
    linear_shapes,
    param_groups,
    target_modules,
)
from symdream.tuners.model import SingLoraModel, SymLoraModel, UnsupportedLayer
from symdream.tuners.ramp import Ramp, find_ramps, set_ramp
from symdream.tuners.register import register

register()

__all__ = [
    "METHODS",
    "ConfigError",
    "Method",
    "Ramp",
    "SingLoraConfig",
    "SingLoraLinear",
    "SingLoraModel",
    "SymLoraConfig",
    "SymLoraLinear",
    "SymLoraModel",
    "SymmetricLinear",
    "UnsupportedLayer",
    "count_parameters",
    "find_ramps",
    "get_method",
    "linear_shapes",
    "lora_factors",
    "param_groups",
    "set_ramp",
    "target_modules",
]


def lora_factors(layer: SymmetricLinear, adapter_name: str = "default", fp16_balanced: bool = False):
    """Plain LoRA's (A (r, in), B (out, r)) with dW = B A at adapter weight 1: see SymmetricLinear.lora_factors."""
    return layer.lora_factors(adapter_name, fp16_balanced)
