"""Which bases are at hand on this machine, and how large they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from symdream.diffusion.names import ALIASES, EMBEDDED, Source
from symdream.diffusion.sizes import download_bytes


@dataclass(frozen=True)
class Entry:
    """One base: `state` is "embedded", "downloaded", "incomplete" or "not downloaded"; `bytes` on disk or to get."""

    name: str
    state: str
    bytes: int
    where: str


def inventory() -> list[Entry]:
    """sprite, the aliases, and every other diffusers model in the hub's cache that could be a base."""
    from symdream.diffusion.embedded import sprite_folder
    from symdream.diffusion.hub import cached_snapshot

    entries = [Entry(EMBEDDED, "embedded", folder_bytes(sprite_folder("sprite-diffusion")), str(sprite_folder()))]
    for alias, repo in ALIASES.items():
        snapshot = cached_snapshot(Source("hub", alias, repo=repo))
        if snapshot is None:
            entries.append(Entry(alias, "not downloaded", download_bytes(alias), repo))
        else:
            entries.append(_cached_entry(alias, snapshot.folder))
    return entries + _other_cached()


def _cached_entry(name: str, folder: Path) -> Entry:
    from symdream.diffusion.hub import is_complete

    return Entry(name, "downloaded" if is_complete(folder) else "incomplete", folder_bytes(folder), str(folder))


def _other_cached() -> list[Entry]:
    from huggingface_hub import CacheNotFound, scan_cache_dir

    from symdream.diffusion.folders import MissingPart, plan_folder
    from symdream.diffusion.hub import cached_snapshot
    from symdream.errors import RequestError

    try:
        repos = sorted(repo.repo_id for repo in scan_cache_dir().repos if repo.repo_type == "model")
    except CacheNotFound:
        return []
    entries = []
    for repo in repos:
        snapshot = None if repo in ALIASES.values() else cached_snapshot(Source("hub", repo, repo=repo))
        if snapshot is None:
            continue
        try:
            plan_folder(snapshot.folder)
        except MissingPart:
            pass  # listed as incomplete
        except RequestError:
            continue  # Flux, ControlNet and others: no base of ours
        entries.append(_cached_entry(repo, snapshot.folder))
    return entries


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below `folder`, links followed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
