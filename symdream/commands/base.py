"""List, fetch, check or export base models."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from tyro.conf import Positional

from symdream.errors import Problems, RequestError, typed
from symdream.writable import not_writable


@dataclass
class List:
    """Show which bases are at hand, where they lie, and how large they are."""

    json: bool = False
    """Print JSON."""


@dataclass
class Get:
    """Download a base from the hub; an interrupted download goes on where it stopped."""

    name: Positional[str]
    """sd15, sdxl, or a hub id (owner/name, or owner/name@revision)."""


@dataclass
class Check:
    """Verify a base's files: checksums where there are any, and the name and shape of every weight."""

    name: Positional[str] = "sprite"
    """sprite, sd15, sdxl, a hub id, a diffusers folder, or a .safetensors file."""


@dataclass
class Export:
    """Write a base as a plain diffusers folder (fp32)."""

    name: Positional[str]
    """sprite, sd15, sdxl, a hub id, a diffusers folder, or a .safetensors file."""
    folder: Positional[Path]
    """Where to write it."""
    overwrite: bool = False
    """Replace the folder if it holds a base."""


Args = List | Get | Check | Export


def run(args: Args) -> int:
    actions = {List: list_bases, Get: get, Check: check, Export: export}
    return actions[type(args)](args)


def list_bases(args: List) -> int:
    from symdream.diffusion.inventory import inventory

    entries = inventory()
    if args.json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return 0
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        print(f"{entry.name:<{width}}  {entry.state:<14}  {entry.bytes / 1e6:>8,.0f} MB  {entry.where}")
    return 0


def get(args: Get) -> int:
    from symdream.diffusion.hub import fetch
    from symdream.diffusion.names import resolve_name
    from symdream.ui import say

    source = resolve_name(args.name)
    if source.kind != "hub":
        say(f"{args.name} is on this machine already ({source.kind}); there is nothing to download.")
        return 0
    snapshot = fetch(source)
    say(f"{args.name} is complete: use it with --base {args.name}")
    print(snapshot.folder)
    return 0


def check(args: Check) -> int:
    from symdream.diffusion.checks import check_source
    from symdream.diffusion.names import resolve_name
    from symdream.ui import say

    findings = check_source(resolve_name(args.name))
    for finding in findings:
        print(f"{'BAD' if finding.problem else 'ok ':<3}  {finding.how:<9}  {finding.file}")
    bad = [finding for finding in findings if finding.problem]
    for finding in bad:
        say(f"{finding.file}: {finding.problem}")
    say(f"{len(findings) - len(bad)} of {len(findings)} files are right.")
    return 1 if bad else 0


def export(args: Export) -> int:
    from symdream.diffusion.base import load_base
    from symdream.diffusion.export_base import export_base
    from symdream.diffusion.names import PICKLES
    from symdream.replacing import refuse_existing
    from symdream.ui import say

    if args.folder.suffix.lower() in (*PICKLES, ".safetensors") and not args.folder.is_dir():
        raise RequestError(
            f"{args.folder} is the name of a file, and a base is written as a folder.",
            fix=f"give {typed(args.folder.with_suffix(''))}",
        )
    refuse_existing(args.folder, args.overwrite, "base")
    if wrong := not_writable(args.folder, "folder", whole=True):
        raise Problems("the request", [wrong])
    export_base(load_base(args.name), args.folder, overwrite=args.overwrite)
    say(f"Written: {args.folder} (StableDiffusionPipeline.from_pretrained loads it)")
    print(args.folder)
    return 0
