"""The optimizer of a run, over groups that know what they hold."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from types import ModuleType

import torch

from symdream.config import TrainConfig
from symdream.errors import RequestError
from symdream.tuners import param_groups
from symdream.tuners.methods import LAMBDA, LORA_B


def make_optimizer(
    config: TrainConfig, trainable: Mapping[str, Mapping[str, torch.nn.Parameter]]
) -> torch.optim.Optimizer:
    """The chosen optimizer with the groups of the method for each component; `base_lr` is the unscheduled rate.

    adamw: AdamW (arXiv:1711.05101), fused where the parameters are on CUDA: one launch instead of hundreds.
    adamw8bit: its moments in 8 bits by blocks (arXiv:2110.02861), tensors under 4096 elements in fp32.
    prodigy: arXiv:2306.06101, with bias correction and safeguarded warm-up, as its authors advise for diffusion.

    Raises: RequestError if the library of the chosen one is not installed.
    """
    training = config.training
    groups = []
    for component, named in trainable.items():
        lr = training.lr if component == "unet" else training.text_encoder_lr
        ratios = {}
        if training.lora_plus_ratio is not None:
            ratios[LORA_B] = training.lora_plus_ratio
        if training.lambda_lr is not None:
            ratios[LAMBDA] = training.lambda_lr / lr
        groups += param_groups(config.adapter.method, named.items(), lr, name=component, ratios=ratios)
    for group in groups:
        group["base_lr"] = group["lr"]
    if training.optimizer == "adamw8bit":
        bitsandbytes = extra("bitsandbytes", "adamw8bit")
        return bitsandbytes.optim.AdamW8bit(groups, weight_decay=training.weight_decay)
    if training.optimizer == "prodigy":
        prodigyopt = extra("prodigyopt", "prodigy")
        # It prints on its way; standard output is for results.
        with contextlib.redirect_stdout(sys.stderr):
            return prodigyopt.Prodigy(
                groups,
                lr=training.lr,
                weight_decay=training.weight_decay,
                use_bias_correction=True,
                safeguard_warmup=True,
            )
    on_cuda = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, weight_decay=training.weight_decay, fused=on_cuda)


def extra(package: str, optimizer: str) -> ModuleType:
    """An optional library. Raises: RequestError with the command that installs it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise RequestError(
            f"--optimizer {optimizer} needs {package}, which is not installed ({error}).",
            fix=f'pip install "symdream[{package}]" (or: pip install {package})',
        ) from error
