"""Tell what is in an adapter file: method, rank, trigger, base, norms, warnings.

Reads adapters of symdream, diffusers, PEFT, kohya and ComfyUI, without torch and without the base.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from symdream.errors import RequestError
from symdream.ui import printable


@dataclass
class Args:
    path: Positional[Path]
    """Run folder, adapter folder, or adapter file (.safetensors)."""
    json: bool = False
    """Print everything as JSON, all singular values and metadata included."""
    plot: Path | None = None
    """Also draw norms and singular values by layer into this PNG (needs matplotlib)."""
    overwrite: bool = False
    """Replace the PNG of --plot if there is one."""


def run(args: Args) -> int:
    if args.plot is not None and args.plot.suffix.lower() != ".png":
        raise RequestError(f"--plot {args.plot} must end in .png.")
    if args.plot is not None and args.plot.exists() and not args.overwrite:
        raise RequestError(f"{args.plot} exists already.", fix="choose another --plot, or add --overwrite")
    from symdream.interop.inspect import inspect_adapter

    facts = inspect_adapter(args.path)
    print(json.dumps(facts, indent=2, ensure_ascii=False) if args.json else text(facts))
    if args.plot is not None:
        from symdream.interop.plot import plot_layers

        plot_layers(facts, args.plot)
    return 0


def text(facts: dict[str, Any]) -> str:
    """The facts as lines and a table; what the file says breaks no line."""
    ranks = facts["ranks"]
    trained = facts["trained_as"]
    rows = {
        "file": f"{facts['path']}, {facts['bytes']:,} bytes",
        "format": facts["format"],
        "method": facts["method"] + (f" (trained as {trained})" if trained not in (None, facts["method"]) else ""),
        "rank": str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}",
        "layers": ", ".join(f"{count} in {name}" for name, count in facts["components"].items()),
        "parameters": f"{facts['parameters']:,} ({', '.join(facts['dtypes'])})",
        "trigger": facts["trigger"] or "not told",
        "base": facts["base"] or "not told",
    }
    lines = [f"{name:<11} {value}" for name, value in rows.items()]
    lines += [f"{'metadata':<11} {name} = {shorten(value)}" for name, value in flat(facts["metadata"])]
    lines += [f"{'WARNING':<11} {warning}" for warning in facts["warnings"]]
    return "\n".join(map(printable, [*lines, "", *table(facts["layers"])]))


def flat(metadata: dict[str, Any]) -> list[tuple[str, Any]]:
    own = metadata.get("symdream") or {}
    pairs = [(f"symdream.{k}", v) for k, v in own.items() if k != "shapes"]
    return pairs + [(k, v) for k, v in metadata.items() if k not in ("symdream", "lora_adapter_metadata")]


def shorten(value: Any) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 90 else shown[:87] + "..."


def table(layers: list[dict[str, Any]]) -> list[str]:
    """One line a layer: the update's norm, and how much of its square the first singular value has."""
    names = [f"{layer['component']}.{layer['layer']}" for layer in layers]
    width = max(map(len, names))
    lines = [f"{'layer':<{width}}  {'rank':>4}  {'in -> out':>12}  {'norm':>9}  {'largest':>9}  {'its share':>9}"]
    for name, layer in zip(names, layers, strict=True):
        shape = f"{layer['shape'][1]} -> {layer['shape'][0]}" if layer["shape"] else "?"
        spectrum, norm = layer["spectrum"], layer["norm"]
        numbers = f"{norm:>9.3g}  {spectrum[0]:>9.3g}" if spectrum else f"{'?':>9}  {'?':>9}"
        share = f"{spectrum[0] ** 2 / norm**2:>9.0%}" if norm else f"{'-':>9}"
        lines.append(f"{name:<{width}}  {layer['rank']:>4}  {shape:>12}  {numbers}  {share}")
    return lines
