"""Write a base as a plain diffusers folder that StableDiffusionPipeline.from_pretrained loads."""

from __future__ import annotations

import shutil
from pathlib import Path

from symdream.diffusion.base import Base
from symdream.diffusion.embedded import sprite_folder
from symdream.diffusion.quiet import quiet_loading
from symdream.replacing import refuse_existing
from symdream.whole_folder import write_folder


def export_base(base: Base, folder: Path, *, overwrite: bool = False) -> None:
    """Write `base` to `folder`, complete or not at all: an interruption leaves the old one.

    Raises: RequestError if `folder` exists and `overwrite` is False or it is no base, WorkError if the disk fails.
    """
    refuse_existing(folder, overwrite, "base")

    def write(partial: Path) -> None:
        with quiet_loading():
            base.pipeline().save_pretrained(partial, safe_serialization=True)
        if base.embedded:
            for name in ("README.md", "LICENSES.md"):  # the artwork's credits travel with the weights
                shutil.copyfile(sprite_folder(name), partial / name)
        elif base.card is not None:  # the licence and its terms, too
            shutil.copyfile(base.card, partial / "README.md")

    write_folder(folder, write)
