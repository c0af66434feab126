"""Is a base whole? Files against their checksums where there are any, and every weight's name and shape against the
model that it is for, which needs headers only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from symdream.diffusion.folders import misfits, plan_folder
from symdream.diffusion.hashes import file_sha256, known_sha256
from symdream.diffusion.names import Source
from symdream.diffusion.single_file import check_single_file
from symdream.errors import RequestError, WorkError

SUMS = "SHA256SUMS"
AGAIN = "get the base again, or choose another"


@dataclass(frozen=True)
class Finding:
    """One file: how it was checked, and what is wrong with it (None: nothing)."""

    file: str
    how: str
    problem: str | None = None


def check_source(source: Source) -> list[Finding]:
    """Check every file that `source` is loaded from.

    Raises: WorkError if a hub base is not on this machine.
    """
    if source.kind == "embedded":
        from symdream.diffusion.embedded import sprite_folder

        return check_sums(sprite_folder())
    if source.kind == "file":
        return [_check_file(source.path)]
    if source.kind == "folder":
        return check_folder(source.path)
    from symdream.diffusion.hub import cached_snapshot

    snapshot = cached_snapshot(source)
    if snapshot is None:
        raise WorkError(f"{source.repo} is not on this machine.", fix=f"symdream base get {source.name}")
    return check_folder(snapshot.folder)


def check_sums(folder: Path) -> list[Finding]:
    """Compare the files of `folder` with its SHA256SUMS (the format of sha256sum)."""
    findings = []
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        expected, name = line.split(maxsplit=1)
        path = folder / name
        problem = None
        if not path.is_file():
            problem = "is missing"
        elif file_sha256(path) != expected:
            problem = f"differs from {SUMS}"
        findings.append(Finding(name, "sha256", problem))
    return findings


def check_folder(folder: Path) -> list[Finding]:
    """A diffusers folder: complete, readable, right architecture, every weight there and of its shape; in the hub's
    cache also content against name."""
    try:
        plan = plan_folder(folder)
    except RequestError as error:
        return [Finding(str(folder), "structure", " ".join(str(error).split()))]
    findings, unfit = [], misfits(plan)
    for path in plan.weights:
        expected, component = known_sha256(path), path.parent.name
        problem = f"the {component} {unfit[component]}; {AGAIN}" if component in unfit else None
        if expected is not None and file_sha256(path) != expected:
            problem = f"differs from its checksum: delete {path.resolve()} and get it again"
        findings.append(Finding(path.relative_to(folder).as_posix(), "sha256" if expected else "header", problem))
    return findings


def _check_file(path: Path) -> Finding:
    try:
        family = check_single_file(path)
    except RequestError as error:
        return Finding(path.name, "header", " ".join(str(error).split()))
    return Finding(path.name, f"header: {family}")
