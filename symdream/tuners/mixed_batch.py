"""Batches in which every row goes through an adapter of its own, at inference (PEFT's `adapter_names`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from peft.utils.other import AuxiliaryTrainingWrapper
from torch import nn

from symdream.tuners.layer import SymmetricLinear

BASE = "__base__"  # PEFT's name of no adapter


@contextmanager
def each_row_its_own(model: nn.Module, adapter_names: Sequence[str], copies: int = 1) -> Iterator[None]:
    """Within, row i of a batch goes through adapter_names[i] alone ("__base__": through none), its weight as set.

    copies: what generation makes of every row, one beside the other (beams, returned sequences).

    Raises: ValueError for names that no layer has, in training mode, and for merged adapters; in a layer, for a batch
    of another length.
    """
    if isinstance(adapter_names, str):
        raise ValueError(f"adapter_names must be a list, one name a row of the batch, not {adapter_names!r}.")
    if model.training:
        raise ValueError("adapter_names is for inference: call eval() on the model first.")
    layers = [module for module in model.modules() if isinstance(module, SymmetricLinear)]
    known = {name for layer in layers for name in layer.r}
    if unknown := sorted(set(adapter_names) - known - {BASE}):
        raise ValueError(f"No adapter of this model is called {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
    if any(layer.merged for layer in layers):
        raise ValueError("An adapter is merged into the weights, for every row: call unmerge_adapter() first.")
    wrapped = [module for module in model.modules() if isinstance(module, AuxiliaryTrainingWrapper)]  # modules_to_save
    hooks = [
        module.register_forward_pre_hook(partial(_name_rows, list(adapter_names), copies), with_kwargs=True)
        for module in (*layers, *wrapped)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _name_rows(names: list[str], copies: int, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    rows = len(args[0]) if args else len(names)
    # An encoder sees the rows before they are copied.
    if rows != len(names) and rows == copies * len(names):
        names = [name for name in names for _ in range(copies)]
    if rows != len(names):
        raise ValueError(f"adapter_names has {len(names)} names, the batch {rows} rows: one name a row is needed.")
    return args, {**kwargs, "adapter_names": names}


def copies_in(call: dict[str, Any], model: nn.Module) -> int:
    """How often model.generate(**call) repeats every row."""
    settings = call.get("generation_config") or getattr(model, "generation_config", None)
    names = ("num_beams", "num_return_sequences")
    return max(call.get(name) or getattr(settings, name, None) or 1 for name in names)
