"""What a setting left open becomes: the method's rates, the base's size and words.

The rates lie in the table of methods (symdream.tuners.methods); how they were found is told in docs/tuning.md.
"""

from __future__ import annotations

from symdream.config import PRODIGY_LR, TrainConfig
from symdream.diffusion.base import Base
from symdream.diffusion.names import EMBEDDED
from symdream.errors import RequestError
from symdream.settings import fields
from symdream.training.absolute_paths import with_absolute_paths
from symdream.tuners import METHODS

# Sprite's captions begin with a style; photographs need none of its words.
TEMPLATES = {EMBEDDED: "a 3d render of a {subject}"}
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
    resolved = with_absolute_paths(config)
    where = fields()
    for name, default in defaults_of(config, embedded=base.embedded).items():
        section = getattr(resolved, where[name][0])
        if getattr(section, name) is None:
            setattr(section, name, default)
    resolved.model.resolution = config.model.resolution or base.resolution
    for subject in resolved.subjects or [resolved.subject]:
        subject.template = subject.template or TEMPLATES.get(base.identity, REAL_TEMPLATE)
    return resolved


def defaults_of(config: TrainConfig, *, embedded: bool) -> dict[str, float | str | None]:
    """What the settings that follow from others are where they are not set, by flat name.

    None: there is none, since this method or these components have no use for it. `embedded`: the base is sprite.
    """
    adapter, training = config.adapter, config.training
    method, prodigy = METHODS[adapter.method], training.optimizer == "prodigy"
    if prodigy:
        lr = text_encoder_lr = training.lr or PRODIGY_LR
    elif embedded:
        lr, text_encoder_lr = method.lr, method.text_encoder_lr
    else:
        lr, text_encoder_lr = method.real_lr, method.real_text_encoder_lr
    # A ramp would begin by taking the update away that the run is to go on from.
    ramp = 0.0 if adapter.start_from else RAMP
    return {
        "alpha": float(adapter.rank),
        "ramp": ramp if method.has_ramp else None,
        "lr": lr if prodigy or adapter.components != "text_encoder" else None,
        "text_encoder_lr": text_encoder_lr if adapter.components != "unet" else None,
        "lr_schedule": "cosine" if embedded else "constant",
    }
