"""Write a base as a plain diffusers folder that StableDiffusionPipeline.from_pretrained loads."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from symdream.diffusion.base import Base
from symdream.diffusion.embedded import sprite_folder
from symdream.diffusion.quiet import quiet_loading
from symdream.errors import WorkError
from symdream.replacing import refuse_existing


def export_base(base: Base, folder: Path, *, overwrite: bool = False) -> None:
    """Write `base` to `folder`, complete or not at all.

    It is written beside `folder` under a temporary name and renamed, so that an interruption leaves the old one.
    Raises: RequestError if `folder` exists and `overwrite` is False or it is no base, WorkError if the disk fails.
    """
    refuse_existing(folder, overwrite, "base")
    partial = folder.parent / f".{folder.name}.partial-{os.getpid()}"
    old = folder.parent / f".{folder.name}.old-{os.getpid()}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with quiet_loading():
            base.pipeline().save_pretrained(partial, safe_serialization=True)
        if base.identity == "sprite":
            for name in ("README.md", "LICENSES.md"):  # the artwork's credits travel with the weights
                shutil.copyfile(sprite_folder(name), partial / name)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
    except OSError as error:
        raise WorkError(f"The base could not be written: {error}.", where=str(folder)) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if old.exists() and not folder.exists():
            old.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
