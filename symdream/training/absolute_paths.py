"""The settings of a run with its paths as places on this machine, whatever the working folder."""

from __future__ import annotations

from pathlib import Path

from symdream.config import TrainConfig
from symdream.diffusion.names import resolve_name


def with_absolute_paths(config: TrainConfig) -> TrainConfig:
    """A copy of `config` that means the same files from any working folder: a run may be resumed from elsewhere."""
    copy = config.model_copy(deep=True)
    for subject in copy.learned:
        subject.images = subject.images.resolve()
    if copy.prior.class_images:
        copy.prior.class_images = copy.prior.class_images.resolve()
    if copy.adapter.start_from:
        copy.adapter.start_from = copy.adapter.start_from.resolve()
    if copy.data.cache_dir:
        copy.data.cache_dir = copy.data.cache_dir.resolve()
    for name in ("dino", "clip"):
        if (encoder := getattr(copy.selection, name)) and Path(encoder).is_dir():
            setattr(copy.selection, name, str(Path(encoder).resolve()))
    source = resolve_name(copy.model.base)
    if source.path is not None:
        copy.model.base = str(source.path.resolve())
    return copy
