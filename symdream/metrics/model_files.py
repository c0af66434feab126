"""Where an encoder's files lie: a local folder, the hub's cache, or a download; safetensors only."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from symdream.errors import RequestError, SymdreamError
from symdream.ui import say

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
WANTED = (
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
)
# Repositories whose main branch has only a pickle, and the pull request of the hub's converter that has the
# same weights as safetensors.
CONVERTED = {"openai/clip-vit-base-patch32": "refs/pr/15"}
CONVERTER = "SFconvertbot"


@dataclass(frozen=True)
class ModelFiles:
    """A model that is here: its name for people, its commit if it has one, its folder, its weight files."""

    model: str
    revision: str | None
    folder: Path
    weights: list[Path]


def find_model(name: str, *, what: str) -> ModelFiles:
    """The files of `name`: a folder, or a hub id `owner/name[@revision]` (taken from the cache, else downloaded).

    Raises: RequestError, in one sentence, if it cannot be had or is stored only as a pickle.
    """
    path = Path(os.path.expanduser(name))  # pathlib's raises for a user that is not there
    if path.is_dir():
        return _files(f"folder:{path.resolve().name}", None, path, name)
    repo, _, revision = name.partition("@")
    if path.is_absolute() or name.startswith((".", "~")) or repo.count("/") != 1 or not all(repo.split("/")):
        raise RequestError(
            f"No {what} {name}: there is no such folder, and it is not a hub id (owner/name).",
            fix="name a folder in transformers' layout, a hub id such as facebook/dino-vits16, or sprite",
        )
    folder = _cached(repo, revision) or _download(repo, revision or CONVERTED.get(repo), what)
    commit = folder.name if folder.parent.name == "snapshots" else None
    return _files(repo, commit, folder, name)


def _files(model: str, revision: str | None, folder: Path, asked: str) -> ModelFiles:
    weights = _weights(folder)
    if not weights:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        raise RequestError(
            f"{asked} holds its weights only as a pickle ({pickles[0]}), which can run code when it is read."
            if pickles
            else f"{asked} holds no complete model.safetensors.",
            where=str(folder),
            fix="use a copy with model.safetensors (many hub models have one; transformers' save_pretrained writes it)",
        )
    if not (folder / "config.json").is_file():
        raise RequestError(
            f"{asked} has no config.json.", where=str(folder), fix="name the folder that holds config.json and weights"
        )
    return ModelFiles(model, revision, folder, weights)


def _weights(folder: Path) -> list[Path]:
    """model.safetensors alone, or its shards where all are there."""
    whole = folder / "model.safetensors"
    if whole.is_file():
        return [whole]
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return shards if all(shard.is_file() for shard in shards) else []


def _cached(repo: str, revision: str) -> Path | None:
    """The newest complete copy in the hub's cache, or None; without a `revision`, of main or of a conversion."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    revisions = [revision] if revision else ["main"]
    if not revision:
        refs = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}" / "refs" / "refs" / "pr"
        if refs.is_dir():
            revisions += [f"refs/pr/{p.name}" for p in sorted(refs.iterdir())]
        pinned = CONVERTED.get(repo)
        if pinned in revisions:
            revisions.insert(0, pinned)
    for candidate in revisions:
        try:
            # With the same patterns as the download: what was left out then (pickles) is not missing now.
            wanted = list(WANTED)
            folder = Path(snapshot_download(repo, revision=candidate, allow_patterns=wanted, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError):
            continue
        if _weights(folder) and (folder / "config.json").is_file():
            return folder
    return None


def _download(repo: str, revision: str | None, what: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    local = "fetch it on a machine with a network and give its folder, or use sprite (for sprite's own art)"
    api = HfApi()
    try:
        revision = revision or _with_safetensors(api, repo)
        say(f"Fetching the {what} {repo} …")
        return Path(snapshot_download(repo, revision=revision, allow_patterns=list(WANTED)))
    except GatedRepoError:
        raise RequestError(
            f"{repo} is gated: its owners ask you to accept their terms.",
            fix=f"accept them at https://huggingface.co/{repo}, then run `hf auth login`",
        ) from None
    except RevisionNotFoundError:
        raise RequestError(f"{repo} has no revision {revision}.", fix="leave out @revision for the newest") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise RequestError(
            f"There is no {what} {repo} on the hub (or it is private).",
            fix="check the spelling, or run `hf auth login` for a private one",
        ) from None
    except OfflineModeIsEnabled:
        raise RequestError(
            f"The {what} {repo} is not on this machine, and HF_HUB_OFFLINE forbids fetching it.",
            fix=f"unset HF_HUB_OFFLINE; or {local}",
        ) from None
    except SymdreamError:
        raise
    except Exception as error:  # its own, the system's, and httpx's or httpx2's kinds, by the client's version
        raise RequestError(
            f"The {what} {repo} is not on this machine and could not be fetched ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0]}).",
            fix=f"check the network and try again (it resumes); or {local}",
        ) from error


def _with_safetensors(api, repo: str) -> str:
    """The revision to fetch: main if it has safetensors, else the hub's own conversion of it.

    Raises: RequestError if there is neither.
    """
    main = api.model_info(repo)
    if any(s.rfilename.endswith(".safetensors") for s in main.siblings or ()):
        return "main"  # not main.sha: only a named revision is found again in the cache without its commit
    for request in api.get_repo_discussions(repo, author=CONVERTER, discussion_type="pull_request"):
        # Anybody can open a request and call it a conversion.
        if request.author == CONVERTER and request.status in ("open", "draft"):
            info = api.model_info(repo, revision=request.git_reference)
            if any(s.rfilename == "model.safetensors" for s in info.siblings or ()):
                return request.git_reference
    raise RequestError(
        f"{repo} holds its weights only as a pickle, which can run code when it is read.",
        fix="name a model that is stored as safetensors",
    )
