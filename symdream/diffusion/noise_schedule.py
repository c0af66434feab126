"""A base's noise schedule, where an adapter was trained on another one than the base's own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from symdream.diffusion.loss import rescale_zero_terminal_snr

if TYPE_CHECKING:
    from symdream.diffusion.base import Base


def use_zero_terminal_snr(base: Base) -> None:
    """Train and sample this base on its schedule rescaled to end in noise alone (arXiv:2305.08891).

    Sampling then starts at the last timestep ("trailing" spacing, section 3.3). A scheduler that cannot start at an
    SNR of 0 (PNDM) gives way to DDIM. Nothing changes on a base whose schedule is rescaled already.
    """
    from diffusers import DDIMScheduler

    old = base.scheduler
    if old.config.get("rescale_betas_zero_snr"):
        return
    able = "rescale_betas_zero_snr" in inspect.signature(type(old).__init__).parameters
    kind = type(old) if able else DDIMScheduler
    base.scheduler = kind.from_config(old.config, rescale_betas_zero_snr=True, timestep_spacing="trailing")
    # Some kinds keep a rest of signal at the end, since they divide by it; training need not. Samplers are made anew
    # from the config (make_scheduler, Base.pipeline), and keep theirs.
    base.scheduler.alphas_cumprod = rescale_zero_terminal_snr(old.alphas_cumprod)
