"""Checkpoints: everything that the next step depends on, atomic, checksummed, never pickled.

    checkpoints/step-N/
        adapter-unet.safetensors, adapter-text_encoder.safetensors    trainable parameters by name
        optimizer.safetensors                                        tensors of the optimizer's state
        state.json                                                   step, the optimizer's numbers
        SHA256SUMS                                                   of the files above; written last
    checkpoints/best                                                 a file with the name of the best, step-N

A checkpoint is made in a hidden folder and renamed when all is on disk. One whose checksums do not hold is
named and skipped, and the one before it is used. Runs trained together (symdream.training.batched) keep no optimizer in
theirs, and cannot be resumed from them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from symdream.diffusion.hashes import file_sha256
from symdream.errors import WorkError
from symdream.files import disk_error, write_text
from symdream.tensor_file import save_tensors
from symdream.ui import say
from symdream.whole_folder import write_folder

SUMS = "SHA256SUMS"
BEST = "best"


def save_checkpoint(
    folder: Path,
    step: int,
    adapters: Mapping[str, Mapping[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer | None,
    extra: Mapping[str, Any],
    *,
    keep: int,
) -> Path:
    """Write checkpoints/step-N and remove all before it but the best and the newest `keep`, itself among them.

    An intact one of this step is left as it is. Without an optimizer the adapters alone are kept.
    Raises: WorkError when the disk is full; older checkpoints are then untouched.
    """
    final = folder / f"step-{step}"
    if final.exists() and damage(final) is None:
        return final  # the step after it failed before it changed anything
    tensors, numbers = flatten_optimizer(optimizer) if optimizer is not None else ({}, None)

    def write(new: Path) -> None:
        for component, parameters in adapters.items():
            plain = {k: v.detach().cpu().contiguous() for k, v in parameters.items()}
            save_tensors(plain, new / f"adapter-{component}.safetensors")
        if optimizer is not None:
            save_tensors(tensors, new / "optimizer.safetensors")
        state = {"step": step, "optimizer": numbers, "components": list(adapters), **extra}
        (new / "state.json").write_text(json.dumps(state), encoding="utf-8")
        sums = {p.name: file_sha256(p) for p in sorted(new.iterdir())}
        (new / SUMS).write_text("".join(f"{v}  {k}\n" for k, v in sums.items()), encoding="utf-8")

    try:
        folder.mkdir(exist_ok=True)  # and not the run folder above it, which somebody removed
    except OSError as error:
        raise disk_error(final, error) from error
    write_folder(final, write, parents=False)  # over a damaged one, where the run was resumed from one before it
    # Damaged later ones stay until the run replaces them; counted here, they would push out intact ones.
    for old in [c for c in list_checkpoints(folder) if step_of(c) <= step][:-keep]:
        if old == best_of(folder):
            continue
        hidden = folder / f".{old.name}.{os.getpid()}.tmp"  # half removed, it must not look like a checkpoint
        try:
            os.replace(old, hidden)
            shutil.rmtree(hidden)
        except OSError as error:
            raise disk_error(old, error) from error
    return final


def mark_best(folder: Path, step: int) -> None:
    """Note in checkpoints/best that step-N is the best so far. Raises: WorkError if it cannot be written."""
    if best_of(folder) != folder / f"step-{step}":
        write_text(folder / BEST, f"step-{step}\n", parents=False)


def best_of(folder: Path) -> Path | None:
    """The checkpoint that is marked as the best, None where none is."""
    try:
        name = (folder / BEST).read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return folder / name if re.fullmatch(r"step-\d+", name) else None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """step-N folders, oldest first."""
    found = [p for p in folder.glob("step-*") if re.fullmatch(r"step-\d+", p.name)]
    return sorted(found, key=step_of)


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        lines = (checkpoint / SUMS).read_text(encoding="utf-8").splitlines()
        sums = {name: expected for expected, name in (line.split("  ", 1) for line in lines)}
        for name, expected in sums.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if file_sha256(checkpoint / name) != expected:
                return f"{name} does not match its checksum"
    except (OSError, ValueError, UnicodeDecodeError) as error:
        return f"{SUMS} cannot be read ({error})"
    unnamed = {path.name for path in checkpoint.iterdir()} - {SUMS, *sums}
    if unnamed or "state.json" not in sums:
        return f"{SUMS} is cut short"
    return None


def newest_intact(folder: Path) -> Path | None:
    """The newest checkpoint whose checksums hold; damaged ones are named on stderr. None if there is none."""
    for checkpoint in reversed(list_checkpoints(folder)):
        problem = damage(checkpoint)
        if problem is None:
            return checkpoint
        say(f"{checkpoint} is damaged: {problem}; trying the one before it.")
    return None


def load_checkpoint(
    checkpoint: Path, adapters: Mapping[str, Mapping[str, torch.Tensor]], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Copy a checkpoint into the parameters and the optimizer; returns its state.json.

    Raises: WorkError if its parameters are not those of this run.
    """
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    load_adapters(checkpoint, adapters)
    restore_optimizer(optimizer, load_file(checkpoint / "optimizer.safetensors"), state["optimizer"])
    return state


def load_adapters(checkpoint: Path, adapters: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Copy a checkpoint's adapters into the parameters. Raises: WorkError if they are not those of this run."""
    for component, parameters in adapters.items():
        saved = load_file(checkpoint / f"adapter-{component}.safetensors")
        if saved.keys() != parameters.keys() or any(saved[k].shape != p.shape for k, p in parameters.items()):
            raise WorkError(
                f"{checkpoint} holds other {component} parameters than this run trains.",
                fix="resume with the config.toml that the run was started with",
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(saved[name])


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's state as tensors (for safetensors) and numbers (for JSON)."""
    state = optimizer.state_dict()
    tensors, numbers = {}, {"class": type(optimizer).__name__, "state": {}, "groups": []}
    for index, values in state["state"].items():
        for key, value in flat(values).items():
            if isinstance(value, torch.Tensor):
                tensors[f"state.{index}.{key}"] = value.detach().cpu().contiguous().clone()
            else:
                numbers["state"].setdefault(str(index), {})[key] = value
    for index, group in enumerate(state["param_groups"]):
        plain = {}
        for key, value in group.items():
            if isinstance(value, torch.Tensor):
                tensors[f"group.{index}.{key}"] = value.detach().cpu().contiguous().clone()
            else:
                plain[key] = value
        numbers["groups"].append(plain)
    return tensors, numbers


def flat(values: Mapping[str, Any]) -> dict[str, Any]:
    """One parameter's state without its inner dicts, in which bitsandbytes wraps what it has quantised.

    Its `load_state_dict` takes the plain form as well.
    """
    plain: dict[str, Any] = {}
    for key, value in values.items():
        plain |= flat(value) if isinstance(value, Mapping) else {key: value}
    return plain


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor], numbers: Mapping[str, Any]
) -> None:
    """The inverse of `flatten_optimizer`. Raises: WorkError if it was another optimizer's."""
    groups = [dict(group) for group in numbers["groups"]]
    state: dict[int, dict[str, Any]] = {int(i): dict(values) for i, values in numbers["state"].items()}
    for name, tensor in tensors.items():
        kind, index, key = name.split(".", 2)
        if kind == "group":
            groups[int(index)][key] = tensor
        else:
            state.setdefault(int(index), {})[key] = tensor
    own = type(optimizer).__name__
    if (saved := numbers.get("class", own)) != own:  # older checkpoints do not say it
        raise WorkError(
            f"The checkpoint is of another optimizer ({saved}) than this run's ({own}).",
            fix="resume with the config.toml that the run was started with",
        )
    for group, mine in zip(groups, optimizer.param_groups, strict=True):
        for key, value in group.items():
            # How it computes is this run's matter: the checkpoint may be a GPU's, or another engine's.
            if key in ("fused", "foreach", "capturable"):
                group[key] = mine.get(key)
            # JSON has no tuples (AdamW's betas).
            if isinstance(mine.get(key), tuple):
                group[key] = tuple(value)
    optimizer.load_state_dict({"state": state, "param_groups": groups})
