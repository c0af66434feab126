"""Small adapted layers and random adapter weights."""

from __future__ import annotations

import torch
from peft import get_peft_model
from torch import nn

from symdream.tuners import SingLoraConfig, SymLoraConfig, SymmetricLinear

CONFIGS = {"singlora": SingLoraConfig, "symlora": SymLoraConfig}


class OneLinear(nn.Module):
    """A model of one linear layer called `linear`."""

    def __init__(self, n_in: int, n_out: int, dtype: torch.dtype = torch.float32, bias: bool = True):
        super().__init__()
        self.linear = nn.Linear(n_in, n_out, bias=bias, dtype=dtype)

    def forward(self, x):
        return self.linear(x)


def adapted_linear(
    method: str, n_in: int, n_out: int, r: int = 4, dtype: torch.dtype = torch.float32, **options
) -> SymmetricLinear:
    """One linear layer with an adapter "default" whose trained numbers are all random."""
    config = CONFIGS[method](r=r, target_modules=["linear"], **options)
    layer = get_peft_model(OneLinear(n_in, n_out, dtype), config).base_model.model.linear
    randomize(layer)
    return layer


@torch.no_grad()
def randomize(model: nn.Module, seed: int = 1) -> None:
    """Fill every adapter parameter (trainable or not) with random numbers of a trained adapter's size.

    DoRA's magnitudes are only perturbed: they are norms.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if "lora_magnitude_vector" in name:
            parameter.mul_(1 + 0.1 * noise)
        elif "lora" in name:
            parameter.copy_(noise / parameter.shape[-1] ** 0.5)
