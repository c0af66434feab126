"""Finds an adapter's files, and sorts their keys by layer. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from symdream.diffusion.headers import Tensor
from symdream.errors import RequestError
from symdream.interop.header import check_number_format
from symdream.interop.keys import (
    ALPHA,
    COMPONENTS,
    DOWN,
    LAMBDA,
    SINGLORA_A,
    SYMLORA_A,
    TEXT_MODEL,
    UP,
    Key,
    Place,
    parse_key,
)
from symdream.training.processes import resume_command_of
from symdream.training.run_folder import RunFolder

WEIGHTS = "adapter_model.safetensors"
WAY_OUT = "give a run folder, or a LoRA or DoRA file of diffusers, PEFT, kohya, ComfyUI or symdream"
# What a key tells of a file in which nothing was recognised.
OTHER_KINDS = {
    r"\.hada_w1": "a LoHa",
    r"\.lokr_w": "a LoKr",
    r"\.oft_": "an OFT",
    r"\.[ab]1\.weight$": "a GLoRA",
    r"\.on_input$|\.ia3_l": "an IA3",
    r"\.diff(_b)?$": "a full difference of the weights, not a LoRA",
    r"^model\.diffusion_model\.": "a whole checkpoint, not an adapter",
    r"^emb_params$": "a textual inversion",
    r"^(transformer\.|lora_transformer_)": "a LoRA of another architecture (a transformer)",
    r"(double|single)_blocks": "a LoRA of another architecture (Flux)",
    r"^conv_in\.weight$": "a UNet, not an adapter",
}
# What makes a whole layer.
WHOLE = ({DOWN, UP}, {SINGLORA_A}, {SYMLORA_A, LAMBDA})


def adapter_files(path: Path) -> dict[Path, str | None]:
    """The files of the adapter at `path`, each with its component where the folder tells it.

    Raises: RequestError if there is no adapter.
    """
    path = Path(path)
    if not path.exists():
        raise RequestError(f"There is no adapter at {path}.", fix=WAY_OUT)
    _refuse_checkpoint(path if path.is_dir() else path.parent)
    if path.is_file():
        return {path: path.parent.name if path.parent.name in COMPONENTS else None}
    for folder in (path / "adapter", path):
        files = {folder / c / WEIGHTS: c for c in COMPONENTS if (folder / c / WEIGHTS).is_file()}
        if files:
            return files
    if (path / WEIGHTS).is_file():
        return {path / WEIGHTS: path.name if path.name in COMPONENTS else None}
    if (path / "config.toml").is_file():
        busy = RunFolder(path).is_locked()
        fix = "wait: it is being trained" if busy else f"finish it: {resume_command_of(path)}"
        raise RequestError(f"The run {path} has no adapter yet.", fix=fix)
    found = sorted(p.name for p in path.glob("*.safetensors"))
    raise RequestError(
        f"No adapter in {path}.", where=f"there are {', '.join(found[:5])}: name one" if found else None, fix=WAY_OUT
    )


def _refuse_checkpoint(folder: Path) -> None:
    """What a training keeps to go on from has raw parameters, without alpha, u and method."""
    if (folder / "state.json").is_file() and any(folder.glob("adapter-*.safetensors")):
        run = folder.parent.parent
        unfinished = f", or finish it: {resume_command_of(run)}" if (run / "config.toml").is_file() else ""
        raise RequestError(
            f"{folder} is a checkpoint of a training, which only the training itself can read.",
            fix=f"give the run {run}{unfinished}",
        )


@dataclass
class Grouped:
    """The keys of one file: for each layer its parts' keys, keys that could not be used, and the layouts met."""

    layers: dict[Place, dict[str, str]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)
    layouts: set[str] = field(default_factory=set)

    @property
    def layout(self) -> str:
        return "/".join(sorted(self.layouts))


def group_keys(tensors: Mapping[str, Tensor], component: str | None, path: Path) -> Grouped:
    """Sort a file's keys by layer; `component` is the one that its folder tells.

    Raises: RequestError if a weight is there twice or of a foreign number format, a layer is not whole, or nothing is
    recognised.
    """
    grouped = Grouped()
    for name in tensors:
        key = parse_key(name)
        if key is None:
            grouped.ignored.append(name)
            continue
        grouped.layouts.add(key.layout)
        parts = grouped.layers.setdefault(_place(key, component), {})
        if key.part in parts:
            raise RequestError(f"{path.name} holds the same weight twice.", where=f"{parts[key.part]} and {name}")
        parts[key.part] = name
    _leave_out_foreign(grouped)
    if not grouped.layers:
        raise nothing_found(path, list(tensors))
    if all(DOWN in parts and UP not in parts for parts in grouped.layers.values()) and len(grouped.layers) > 1:
        raise RequestError(
            f"{path.name} looks like a SingLoRA of another program: no layer has a matrix B beside its A, and nothing "
            "tells how the update is made of A and u(t).",
            fix="use the program it was trained with, or train it here: symdream reads its own SingLoRA, and LoRA",
        )
    for place, parts in grouped.layers.items():
        if sum(whole <= parts.keys() for whole in WHOLE) != 1:
            raise RequestError(
                f"{path.name} has only a part of the update of {place}: {', '.join(parts)}.",
                fix="get the file again; it seems to be cut",
            )
        for part, name in parts.items():
            check_number_format(name, tensors[name], path, whole=part == ALPHA)
    return grouped


def _leave_out_foreign(grouped: Grouped) -> None:
    """A layer that also has a part which is not understood would do something else without it: ignore it whole."""
    stems = {_stem(name) for name in grouped.ignored}
    for place, parts in list(grouped.layers.items()):
        if _stem(next(iter(parts.values()))) in stems:
            grouped.ignored += grouped.layers.pop(place).values()


def _stem(key: str) -> str:
    """What the keys of one layer of a file have in common."""
    return key.split(".")[0] if key.startswith("lora_") else re.sub(r"\.(lora[._].*|[^.]*)$", "", key)


def _place(key: Key, component: str | None) -> Place:
    told = key.component or component
    if told is None:
        told = "text_encoder" if key.module.startswith(TEXT_MODEL) else "unet"
    return Place(told, key.module)


def nothing_found(path: Path, keys: list[str]) -> RequestError:
    kind = next((kind for sign, kind in OTHER_KINDS.items() if any(re.search(sign, key) for key in keys)), None)
    return RequestError(
        f"No adapter weight was recognised in {path.name}: 0 of {len(keys)} keys"
        + (f"; it looks like {kind}." if kind else "."),
        where=f"keys such as {sorted(keys)[0]}" if keys else "the file is empty",
        fix=WAY_OUT,
    )
