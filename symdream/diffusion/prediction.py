"""What a single-file UNet was trained to predict, which its layout does not say.

SD 2.x exists both ways with the same shapes: 512-base predicts the noise, 768 predicts v.
"""

from __future__ import annotations

import torch

from symdream.diffusion.headers import Header

V_MARKER = "v_pred"  # an empty tensor that some SDXL checkpoints carry to say so
ZERO_SNR_MARKER = "ztsnr"  # the same, in every family, for a schedule that ends in noise alone


def single_file_prediction(header: Header, family: str, unet: torch.nn.Module) -> str:
    """ "epsilon" or "v_prediction": the file's own word where there is one, else measured for SD 2.x."""
    stated = header.metadata.get("modelspec.prediction_type", "").lower()
    if stated in ("v", "v_prediction") or V_MARKER in header.shapes:
        return "v_prediction"
    if stated in ("epsilon", "eps") or family != "sd2":
        return "epsilon"
    return measured_prediction(unet)


@torch.inference_mode()
def measured_prediction(unet: torch.nn.Module) -> str:
    """Ask the UNet about pure noise at the last timestep, where x_t is nearly all noise.

    A noise predictor answers with its input (cosine near 1); v = √ᾱ ε - √(1-ᾱ) x0 is nearly -x0 there and has
    nothing to do with it (cosine near 0). The line is drawn at 0.5.
    """
    parameter = next(unet.parameters())
    generator = torch.Generator().manual_seed(0)
    side = min(32, unet.config.sample_size)
    noise = torch.randn(1, 4, side, side, generator=generator).to(parameter)
    text = torch.zeros(1, 77, unet.config.cross_attention_dim).to(parameter)
    answer = unet(noise, 999, text).sample
    cosine = torch.cosine_similarity(answer.float().flatten(), noise.float().flatten(), dim=0)
    return "epsilon" if cosine > 0.5 else "v_prediction"
