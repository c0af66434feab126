"""What may be asked of the image maker, from the command line and in the app. Needs no torch."""

from __future__ import annotations

from typing import Literal, get_args

Sampler = Literal["base", "ddim", "euler", "dpm++"]
SAMPLERS: tuple[str, ...] = get_args(Sampler)

# One less than the noise schedules have timesteps: Stable Diffusion's samplers leave out the first (steps_offset).
MAX_STEPS = 999
MAX_SEED = 2**63 - 1
MAX_GUIDANCE = 100
MIN_SIDE, MULTIPLE = 64, 8  # pixels: the UNet halves the latents three times, the VAE halves the picture as often


def wrong_settings(steps: int | None, guidance: float | None, width: int | None, height: int | None) -> dict[str, str]:
    """What is wrong with each of these, by name (None: the base's own, which is right)."""
    wrong = {}
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        wrong["steps"] = f"must be from 1 to {MAX_STEPS}"
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:
        wrong["guidance"] = f"must be from 0 to {MAX_GUIDANCE}"
    for name, value in (("width", width), ("height", height)):
        if value is not None and (value < MIN_SIDE or value % MULTIPLE):
            wrong[name] = f"must be a multiple of {MULTIPLE}, at least {MIN_SIDE}"
    return wrong
