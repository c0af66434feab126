"""An adapter as a file for other tools: written beside its run, and handed to the browser."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from symdream.errors import RequestError
from symdream.training.run_folder import disk_error, is_run
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
    from symdream.interop.export import export
    from symdream.interop.layers import DTYPES as TORCH

    try:
        handed = Path(tempfile.mkdtemp(prefix="export-", dir=context.uploads))
        kept = path / FOLDER if is_run(path) else handed
        kept.mkdir(exist_ok=True)
        name = f"{path.stem if path.is_file() else path.name}-{to}"
        target = kept / (name if to == "peft" else f"{name}.safetensors")
        result = export(path, to, target, dtype=TORCH[dtype], weight=weight, overwrite=True)
        files = [result.path, *result.companions]
        if to == "peft":
            return [Path(shutil.make_archive(str(handed / name), "zip", target))]
        return files if kept == handed else [_copy(file, handed / file.name) for file in files]
    except OSError as error:
        raise disk_error(path, error) from error


def _copy(file: Path, target: Path) -> Path:
    """A second name for the same bytes where the disk can do that (a merged base has gigabytes)."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
    return target
