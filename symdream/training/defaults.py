"""What a setting left open becomes: the method's rates, the base's size and words.

The rates lie in the table of methods (symdream.tuners.methods); how they were found is told in docs/tuning.md.
"""

from __future__ import annotations

from pathlib import Path

from symdream.config import PRODIGY_LR, TrainConfig
from symdream.diffusion.base import Base
from symdream.diffusion.names import resolve_name
from symdream.errors import RequestError
from symdream.tuners import METHODS

# Sprite's captions begin with a style; photographs need none of its words.
TEMPLATES = {"sprite": "a 3d render of a {subject}"}
REAL_TEMPLATE = "a photo of a {subject}"
RAMP = 0.01  # of all steps: arXiv:2507.05566, appendix A.1


def resolve(config: TrainConfig, base: Base) -> TrainConfig:
    """A copy of `config` in which nothing that this method and base need is None.

    Raises: RequestError if a setting cannot be had on this base.
    """
    if config.loss.zero_terminal_snr and base.prediction_type != "v_prediction":
        raise RequestError(
            f"zero_terminal_snr cannot be had on {base.name}: it predicts the noise (epsilon), and where a picture is "
            "noise alone, that is its input and tells nothing about the picture.",
            fix="leave --zero-terminal-snr out, or take a base that predicts v, such as SD 2.1",
        )
    method = METHODS[config.adapter.method]
    embedded = base.identity == "sprite"
    if config.training.optimizer == "prodigy":
        lr = text_encoder_lr = config.training.lr or PRODIGY_LR
    else:
        lr = config.training.lr or (method.lr if embedded else method.real_lr)
        text_encoder_lr = config.training.text_encoder_lr or (
            method.text_encoder_lr if embedded else method.real_text_encoder_lr
        )
    resolved = with_absolute_paths(config)
    resolved.adapter.alpha = config.adapter.alpha or float(config.adapter.rank)
    if method.has_ramp and config.adapter.ramp is None:
        # A ramp would begin by taking the update away that the run is to go on from.
        resolved.adapter.ramp = 0.0 if config.adapter.start_from else RAMP
    if config.adapter.components != "text_encoder" or config.training.optimizer == "prodigy":
        resolved.training.lr = lr
    resolved.training.lr_schedule = config.training.lr_schedule or ("cosine" if embedded else "constant")
    if config.adapter.components != "unet":
        resolved.training.text_encoder_lr = text_encoder_lr
    resolved.model.resolution = config.model.resolution or base.resolution
    for subject in resolved.subjects or [resolved.subject]:
        subject.template = subject.template or TEMPLATES.get(base.identity, REAL_TEMPLATE)
    return resolved


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
