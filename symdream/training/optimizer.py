"""The optimizer of a run: AdamW over groups that know what they hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator

from symdream.config import TrainConfig
from symdream.tuners import param_groups
from symdream.tuners.methods import LAMBDA, LORA_B


def make_optimizer(
    config: TrainConfig, trainable: Mapping[str, Mapping[str, torch.nn.Parameter]]
) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with the groups of the method for each component; `base_lr` is the unscheduled rate.

    Fused where the parameters are on CUDA: one launch instead of hundreds.
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
    on_cuda = all(p.is_cuda for group in groups for p in group["params"])
    return torch.optim.AdamW(groups, weight_decay=training.weight_decay, fused=on_cuda)


def average_gradients(parameters: Sequence[torch.nn.Parameter], accelerator: Accelerator) -> None:
    """Replace each gradient by its mean over all processes, in one reduction.

    An adapter is small, so DistributedDataParallel's overlap would gain nothing; without its wrapper the model's
    names and the single-process path stay as they are.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters]
    flat = accelerator.reduce(torch.cat([g.flatten() for g in gradients]), reduction="mean")
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
