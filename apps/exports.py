"""An adapter as a file for other tools: written beside its run, and handed to the browser."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from symdream.errors import RequestError
from symdream.files import disk_error
from symdream.training.run_folder import is_run
from symdream_apps.adapters import page_name, read_card
from symdream_apps.bases import checked_base
from symdream_apps.context import Context

# What each format is for, as the pages say it.
FORMATS = {
    "kohya": "kohya: ComfyUI, A1111, kohya's tools",
    "diffusers": "diffusers: diffusers, ComfyUI",
    "peft": "peft: a folder for each part, zipped",
    "merged": "merged: the whole base with the adapter folded in (large)",
}
DTYPES = ("fp32", "fp16", "bf16")
FOLDER = "exports"  # in the run


def export_for_others(
    context: Context, path: Path | str, to: str, *, dtype: str = "fp32", weight: float | None = None
) -> list[Path]:
    """Write the adapter at `path` as one of FORMATS; returns the file and what tells about it (.txt, .png), as copies
    that the browser may have. A run keeps the originals in its folder exports/, where a new export replaces the old.

    weight: as `symdream.interop.export.export` takes it.
    Raises: RequestError (no such format; the adapter cannot be used), WorkError (a full disk).
    """
    if to not in FORMATS:
        raise RequestError(f"There is no export format {to!r}.", fix=f"choose one of {', '.join(FORMATS)}")
    if dtype not in DTYPES:
        raise RequestError(f"There is no number format {dtype!r}.", fix=f"choose one of {', '.join(DTYPES)}")
    path = context.check_path(path)
    base = base_to_load(context, path, to)
    from symdream.diffusion.dtypes import DTYPES as TORCH
    from symdream.interop.export import export

    try:
        handed = Path(tempfile.mkdtemp(prefix="export-", dir=context.uploads))
        kept = path / FOLDER if is_run(path) else handed
        kept.mkdir(exist_ok=True)
        name = f"{path.stem if path.is_file() else path.name}-{to}"
        target = kept / (name if to == "peft" else f"{name}.safetensors")
        result = export(path, to, target, dtype=TORCH[dtype], weight=weight, base=base, overwrite=True)
        files = [result.path, *result.companions]
        if to == "peft":
            return [Path(shutil.make_archive(str(handed / name), "zip", target))]
        return files if kept == handed else [_copy(file, handed / file.name) for file in files]
    except OSError as error:
        raise disk_error(path, error) from error


def base_to_load(context: Context, path: Path, to: str) -> str | None:
    """The base by which to load that of the adapter at `path`; None: as its run says, or nothing will be loaded.

    What an adapter's file says may come from anywhere: it opens nothing outside of the app's folders.
    Raises: RequestError if the base that is needed is not to be had here.
    """
    if is_run(path) and path.parent == context.runs:
        return None
    identity = read_card(context, path).base
    if identity is None:
        return None
    name = page_name(context, identity)
    if name is not None:
        return checked_base(context, name)
    if to == "merged" or not identity.startswith(("folder:", "file:")):
        raise RequestError(
            f"This adapter was made on {identity}, which is not to be had here.",
            fix="put that base into the runs folder, or export on the command line",
        )
    return None


def _copy(file: Path, target: Path) -> Path:
    """A second name for the same bytes where the disk can do that (a merged base has gigabytes)."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
    return target
