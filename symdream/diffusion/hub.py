"""Bases of the hub: which files are needed, whether they are at hand, and fetching them with resume."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from symdream.diffusion.architecture import family_of_folder
from symdream.diffusion.folders import STEMS, VARIANTS, MissingPart, plan_folder, read_json, weight_components
from symdream.diffusion.names import Source, pickle_refused
from symdream.diffusion.resumable import fetch_blob
from symdream.errors import RequestError, SymdreamError, WorkError
from symdream.ui import say

SMALL_FILES = (
    "model_index.json",
    "README.md",  # the model card, which names the licence
    "scheduler/scheduler_config.json",
    *(f"{part}/config.json" for part in STEMS),
    *(
        f"{tokenizer}/{file}"
        for tokenizer in ("tokenizer", "tokenizer_2")
        for file in (
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.json",
            "merges.txt",
            "special_tokens_map.json",
            "added_tokens.json",
        )
    ),
)


@dataclass(frozen=True)
class Snapshot:
    """One downloaded version of a repository."""

    folder: Path
    commit: str


def cached_snapshot(source: Source) -> Snapshot | None:
    """The version of `source` that the cache holds, if its model_index.json is there; never asks the network."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(source.repo, "model_index.json", revision=source.revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    return Snapshot(folder, folder.name)


def at_hand(source: Source) -> Snapshot:
    """The cached version if it is complete, else a download of what it lacks.

    Raises: as `fetch` and `plan_folder` do.
    """
    snapshot = cached_snapshot(source)
    if snapshot and is_complete(snapshot.folder):
        return snapshot
    return fetch(source)


def is_complete(folder: Path) -> bool:
    """Whether all files of a base are there; a base that could never be loaded counts, to be refused by name."""
    try:
        plan_folder(folder)
    except MissingPart:
        return False
    except RequestError:
        return True
    return True


def fetch(source: Source) -> Snapshot:
    """Download what `source` needs and the cache lacks, going on where an interrupted download stopped.

    The architecture is judged by two small files before the weights are asked for.
    Raises: RequestError if the name, access or architecture is wrong, WorkError if the network or the disk fails.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    where = {"repo_id": source.repo, "revision": source.revision}
    try:
        info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings}
        if "model_index.json" not in sizes:
            raise _not_diffusers(source, sizes)
        model_index = read_json(Path(hf_hub_download(filename="model_index.json", **where)))
        unet_config = {}
        if "unet/config.json" in sizes:
            unet_config = read_json(Path(hf_hub_download(filename="unet/config.json", **where)))
        family = family_of_folder(model_index, unet_config, source.repo)
        files = needed_files(sizes, family)
        total = sum(sizes[name] for name in files)
        _check_disk(total)
        say(f"Fetching {source.repo} ({total / 1e9:.2f} GB in {len(files)} files; what is there already is kept).")
        for name in files:
            if name.endswith(".safetensors"):
                fetch_blob(source.repo, info.sha, name)
        folder = Path(snapshot_download(**where, allow_patterns=files))
    except SymdreamError:
        raise
    except Exception as error:  # the hub's client raises its own, httpx's and the system's kinds
        raise hub_error(error, source) from error
    return Snapshot(folder, folder.name)


def needed_files(sizes: Mapping[str, int], family: str) -> list[str]:
    """The files to download: configs, tokenizers, and each model's safetensors, as fp16 where all offer it.

    Raises: RequestError if a model is only there as a pickle, or not at all.
    """
    parts = weight_components(family)
    offers = {part: {variant: _component_files(sizes, part, variant) for variant in VARIANTS} for part in parts}
    fp16_everywhere = all(offer["fp16"] for offer in offers.values())
    files = [name for name in SMALL_FILES if name in sizes]
    for part, offer in offers.items():
        chosen = offer["fp16"] if fp16_everywhere else offer[""] or offer["fp16"]
        if not chosen:
            pickles = sorted(name for name in sizes if name.startswith(f"{part}/") and name.endswith((".bin", ".ckpt")))
            if pickles:
                raise pickle_refused(pickles[0])
            raise RequestError(f"The repository has no weights for its {part}.")
        files += chosen
    return files


def _component_files(sizes: Mapping[str, int], part: str, variant: str) -> list[str]:
    stem, infix = f"{part}/{STEMS[part]}", f".{variant}" if variant else ""
    if f"{stem}{infix}.safetensors" in sizes:
        return [f"{stem}{infix}.safetensors"]
    index = f"{stem}.safetensors.index{infix}.json"
    if index not in sizes:
        return []
    # Shards are named STEM[.VARIANT]-00001-of-00002.safetensors.
    return [index, *sorted(n for n in sizes if n.startswith(f"{stem}{infix}-") and n.endswith(".safetensors"))]


def _check_disk(needed: int) -> None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise WorkError(
            f"Not enough disk space: the download takes {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free.",
            where=HF_HUB_CACHE,
            fix="free some space, or set HF_HOME to a folder on a larger disk",
        )


def _not_diffusers(source: Source, sizes: Mapping[str, int]) -> RequestError:
    singles = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    fix = f"download {singles[0]} and give its path" if singles else "choose a text-to-image model's repository"
    return RequestError(f"{source.repo} is no diffusers model: it has no model_index.json.", fix=fix)


def hub_error(error: Exception, source: Source) -> SymdreamError:
    """The clear sentence for whatever the hub's client raised."""
    from huggingface_hub import errors

    asked = source.repo + (f" at {source.revision}" if source.revision else "")
    offline_way_out = "use --base sprite (needs no download), a local folder, or a .safetensors file"
    if isinstance(error, errors.OfflineModeIsEnabled):
        return WorkError(
            f"{asked} is not on this machine, and HF_HUB_OFFLINE forbids to download it.",
            fix=f"unset HF_HUB_OFFLINE, or {offline_way_out}",
        )
    if isinstance(error, errors.GatedRepoError):
        return RequestError(
            f"{asked} is gated: its owner wants you to agree to its terms first.",
            fix=f"agree at https://huggingface.co/{source.repo}, run `hf auth login`, then try again",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return RequestError(f"{source.repo} has no version {source.revision}.", fix="check the part after the @")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return RequestError(
            f"The hub knows no model {asked} (or it is private).",
            fix="check the spelling; for a private one, run `hf auth login` first",
        )
    if isinstance(error, errors.HfHubHTTPError):
        return WorkError(f"The hub refused to hand out {asked}: {error}.", fix="try again later")
    network = type(error).__module__.split(".")[0].startswith("http") or isinstance(
        error, errors.LocalEntryNotFoundError | ConnectionError | TimeoutError
    )
    if network:
        return WorkError(
            f"{asked} could not be downloaded: the hub cannot be reached ({type(error).__name__}).",
            fix=f"check the network and run it again (it resumes), or {offline_way_out}",
        )
    return WorkError(f"{asked} could not be downloaded: {error}.", fix=f"try again (it resumes), or {offline_way_out}")
