"""Which adapters there are, and what each one's header tells. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from symdream.diffusion.hashes import file_sha256
from symdream.diffusion.names import ALIASES, EMBEDDED, HUB_ID
from symdream.errors import RequestError
from symdream.interop.grouping import adapter_files, group_keys
from symdream.interop.header import read_adapter_header
from symdream.interop.metadata import our_metadata, recommended_weight, subject_words, trained_base
from symdream.training.run_folder import is_run
from symdream_apps.context import Context


@dataclass(frozen=True)
class AdapterCard:
    """An adapter as the pages show it; `base` is the identity of what it was trained on, None if the file is silent."""

    path: Path
    name: str
    words: str  # trigger and class noun, "" where the file does not tell them
    trigger: str
    class_noun: str
    method: str
    base: str | None
    weight: float

    def line(self) -> str:
        """The card in one line of text."""
        parts = [self.method or "LoRA", f'answers to "{self.words}"' if self.words else "does not tell its trigger"]
        if self.base:
            parts.append(f"for {self.base.split('@')[0]}")
        return " · ".join(parts)


def find_adapters(context: Context) -> list[Path]:
    """Run folders with an adapter, each with the .safetensors files in it behind it, and .safetensors files in the runs
    folder, newest first."""
    found = dict(_candidates(context.runs))
    return sorted(found, key=found.get, reverse=True)  # of one age: in the order in which they were found


def _candidates(runs: Path) -> Iterator[tuple[Path, float]]:
    for entry in runs.iterdir():
        if entry.name.startswith("."):
            continue
        try:
            if entry.is_dir():
                weights = sorted(entry.glob("adapter/*/adapter_model.safetensors"))
                files = sorted(entry.glob("*.safetensors"))
                trained = weights[0].stat().st_mtime if weights and is_run(entry) else None
                if trained is not None:
                    yield entry, trained
            else:
                trained, files = None, [entry] if entry.suffix == ".safetensors" else []
            for file in files:
                yield file, file.stat().st_mtime if trained is None else trained
        except OSError:
            continue  # removed, or not ours to read, while we looked


def read_card(context: Context, path: Path | str) -> AdapterCard:
    """What the header of the adapter at `path` (checked) tells.

    Raises: RequestError if there is no adapter or a part of one, or its file is damaged, foreign or a pickle.
    """
    path = context.check_path(path)
    files = adapter_files(path)
    for file in files:
        context.check_path(file)  # a link inside a folder may lead out of it
    file, component = next(iter(files.items()))
    header = read_adapter_header(file)
    group_keys(header.tensors, component, file)  # the metadata alone may be those of a base with an adapter in it
    told = our_metadata(header)
    return AdapterCard(
        path=path,
        name=context.name_of(path),
        words=subject_words(told),
        trigger=str(told.get("trigger") or ""),
        class_noun=str(told.get("class_noun") or ""),
        method=str(told.get("method") or ""),
        base=_identity(told),
        weight=recommended_weight(told),
    )


def _identity(told: dict[str, Any]) -> str | None:
    identity = trained_base(told).get("identity")
    return str(identity) if identity else None


def base_for(context: Context, paths: Sequence[Path | str]) -> str | None:
    """The base that all of these adapters were made on, as the pages name it; None where they do not tell one that is
    to be had here."""
    try:
        told = {read_card(context, path).base for path in paths}
    except RequestError:
        return None
    identity = told.pop() if len(told) == 1 else None
    return None if identity is None else page_name(context, identity)


def page_name(context: Context, identity: str) -> str | None:
    """A base's identity as a base box takes it; None if no such base is to be had here."""
    kind, _, name = identity.partition(":")
    if kind in ("folder", "file"):  # of which the identity has the last part alone
        try:
            place = context.check_path(name)
        except RequestError:
            return None
        is_base = (place / "model_index.json").is_file() or (place.is_file() and place.suffix == ".safetensors")
        return name if is_base and place.parent == context.runs else None
    if identity == EMBEDDED or identity in ALIASES:
        return identity
    known = {repo: alias for alias, repo in ALIASES.items()}
    if alias := known.get(identity.partition("@")[0]):
        return alias
    # What is there as a file would be taken for one.
    return identity if HUB_ID.fullmatch(identity) and not Path(identity).exists() else None


def choices(context: Context) -> list[tuple[str, str]]:
    """(name, path) of every adapter that can be read, for a dropdown; the others are left out, and logged."""
    listed = []
    for path in find_adapters(context):
        try:
            card = read_card(context, path)
        except (RequestError, OSError) as error:  # not ours to read, or removed while we looked
            context.log.info("not listed: %s", " ".join(str(error).split()))
            continue
        listed.append((f"{card.name} · {card.words}" if card.words else card.name, str(card.path)))
    return listed


def named(context: Context, name: str) -> Path:
    """The adapter that a name or path means, as an API call or a picture's settings have it.

    Raises: RequestError if there is none of that name.
    """
    try:
        return context.check_path(name)
    except RequestError:
        for path in find_adapters(context):
            if name in (path.name, context.name_of(path)):
                return context.check_path(path)
        raise


def entry_of(context: Context, path: Path, weight: float) -> dict[str, Any]:
    """An adapter and its weight as a picture's settings tell them. The name of a dropped file says neither where it is
    nor, if another has the same one, which it is: its `sha256` does, as long as it is there."""
    entry = {"name": context.name_of(path), "weight": weight}
    return {**entry, "sha256": _sha256(path)} if path.is_relative_to(context.uploads) else entry


def made_with(context: Context, entry: Mapping[str, Any], dropped: Sequence[str]) -> Path:
    """The adapter that `entry_of` told, in the runs folder or among the `dropped` files.

    An entry without `sha256`, of another program too, means the adapter of that name in the runs folder; if there is
    none, the one dropped file that is so called.
    Raises: RequestError if it is not there.
    """
    name, sha256 = str(entry["name"]), entry.get("sha256")
    files = [file for file in map(Path, dropped) if file.name == name and file.is_file()]
    if sha256 is None:
        try:
            return named(context, name)
        except RequestError:
            if len(files) != 1:
                raise
            return files[0]
    files += [path for path in find_adapters(context) if path.name == name and path.is_file()]
    for file in files:
        if _sha256(file) == sha256:
            return file
    raise RequestError(f"{name} is not here any more.", fix="drop it again")


def _sha256(file: Path) -> str:
    about = file.stat()
    return _sha256_as_of(file, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=64)  # a file may have gigabytes, and every picture made with it asks
def _sha256_as_of(file: Path, mtime_ns: int, size: int) -> str:
    return file_sha256(file)
