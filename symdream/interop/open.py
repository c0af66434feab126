"""Opens an adapter for use: on a base of its own, or on a pipeline that the user has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from symdream.diffusion.adapters import NAME, adapter_layers, set_layer_weight
from symdream.diffusion.base import Base, load_base
from symdream.diffusion.noise_schedule import use_zero_terminal_snr
from symdream.errors import RequestError
from symdream.interop.attach import Match, attach_adapter
from symdream.interop.layers import Adapter
from symdream.interop.metadata import trained_base
from symdream.interop.read import read_adapter
from symdream.interop.several import attach_several
from symdream.settings import read_toml
from symdream.ui import say


def open_adapter(
    path: Path, *, base: str | None = None, device="cpu", dtype: torch.dtype = torch.float32
) -> tuple[Base, dict[str, Any]]:
    """The adapter at `path` (run folder, adapter folder or .safetensors file of any layout) attached to its base.

    `base` None is the base that the run or the file names, sprite for a file that names none. What did not fit is
    told on stderr. Returns the base and the file's `symdream` metadata.
    Raises: RequestError if the adapter cannot be used, its base is unknown, or no layer of it fits.
    """
    loaded, [metadata] = open_adapters({NAME: path}, base=base, device=device, dtype=dtype)
    return loaded, metadata


def open_adapters(
    paths: Mapping[str, Path], *, base: str | None = None, device="cpu", dtype: torch.dtype = torch.float32
) -> tuple[Base, list[dict[str, Any]]]:
    """As `open_adapter`, for several on one base, by name: all at weight 1, their updates add up (`attach_several`).

    `base` None is the base that they name. Returns the base and the metadata of each.
    Raises: RequestError as `open_adapter` does, and if they name different bases.
    """
    adapters = {name: read_adapter(path) for name, path in paths.items()}
    loaded = load_base(base or common_base(paths, adapters), device=device, dtype=dtype)
    matches = attach_several(loaded, adapters)
    for (name, adapter), match in zip(adapters.items(), matches.values(), strict=True):
        path = Path(paths[name])
        if adapter.metadata.get("zero_terminal_snr"):
            use_zero_terminal_snr(loaded)
        for line in differences(loaded, adapter.metadata):
            say(line if len(adapters) == 1 else f"{path.name}: {line.removeprefix('note: ')}")
        report_mismatch(match, path)
    return loaded, [adapter.metadata for adapter in adapters.values()]


def common_base(paths: Mapping[str, Path], adapters: Mapping[str, Adapter]) -> str:
    """The name to load the base of all these adapters by; those that tell none take that of the others.

    Raises: RequestError if they tell different ones, and as `base_of` does.
    """
    told = {name: trained_base(adapter.metadata).get("identity") for name, adapter in adapters.items()}
    known = {name: str(identity) for name, identity in told.items() if identity is not None}
    if len(set(known.values())) > 1:
        raise RequestError(
            "These adapters were trained on different bases: "
            + ", ".join(f"{Path(paths[name]).name} on {identity}" for name, identity in known.items())
            + ".",
            fix="leave out those of another base, or name the base that all are to be put on: --base NAME",
        )
    name = next(iter(known or adapters))
    return base_of(Path(paths[name]), adapters[name].metadata)


def load_adapter(pipe, path: Path | str, name: str = "default", weight: float = 1.0) -> Match:
    """Load an adapter of any layout, symdream's own included, into a diffusers Stable Diffusion pipeline.

    It becomes the active adapter `name` at this weight, as after `pipe.load_lora_weights`; from then on
    `pipe.set_adapters`, `pipe.fuse_lora`, `pipe.delete_adapters` and `pipe.unload_lora_weights` treat it like a LoRA.
    Returns which layers matched.
    Raises: RequestError if it cannot be used, no layer fits, or `name` is taken.
    """
    components = {c: m for c in ("unet", "text_encoder", "text_encoder_2") if (m := getattr(pipe, c, None)) is not None}
    if not components:
        raise RequestError(f"A {type(pipe).__name__} has no UNet and no text encoder.")
    if any(name in (getattr(model, "peft_config", None) or {}) for model in components.values()):
        raise RequestError(f"This pipeline has an adapter called {name!r}.", fix="load it under another name")
    match = attach_adapter(components, read_adapter(Path(path)), name, fix="load it into a pipeline of its base")
    for component in {place.component for place in match.matched}:
        for layer in adapter_layers(components[component]):
            if name in getattr(layer, "scaling", {}):
                set_layer_weight(layer, weight, name)
    report_mismatch(match, Path(path))
    return match


def base_of(path: Path, metadata: Mapping[str, Any]) -> str:
    """The name to load this adapter's base by.

    Raises: RequestError if the adapter tells its base, but it cannot be found by that.
    """
    config = path / "config.toml"
    if config.is_file():
        try:
            return read_toml(config)["model"]["base"]
        except (RequestError, KeyError, TypeError):
            raise RequestError(f"{config} does not name the base.", fix="name it with --base") from None
    identity = trained_base(metadata).get("identity")
    if identity is None:
        say(f"{path.name} does not say which base it was made for; trying sprite (another: --base NAME).")
        return "sprite"
    if str(identity).startswith(("folder:", "file:")):
        kind, name = str(identity).split(":", 1)
        raise RequestError(f"This adapter was made on the {kind} {name}.", fix=f"say where that is: --base PATH/{name}")
    return str(identity)


def differences(base: Base, metadata: Mapping[str, Any]) -> list[str]:
    """What to tell about the base at hand, where it is not the one that the adapter was trained on."""
    trained = trained_base(metadata)
    identity = trained.get("identity")
    if identity is None:
        return []
    if identity != base.identity:
        return [f"note: this adapter was trained on {identity}, and is now on {base.identity}."]
    # A hub identity holds the commit; reading gigabytes again would tell nothing more.
    if "@" not in identity and trained.get("hash") not in (None, base.hash):
        return [f"note: the weights of {identity} have changed since this adapter was trained on them."]
    return []


def report_mismatch(match: Match, path: Path) -> None:
    """Say what did not fit, if anything."""
    if match.unmatched or match.ignored or match.notes:
        say(f"{path.name}: {match}")
