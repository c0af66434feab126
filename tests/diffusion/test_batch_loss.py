"""The loss of a batch against its formula, written out sample by sample."""

import pytest
import torch

from symdream.diffusion.base import load_base
from symdream.diffusion.batch import Batch
from symdream.diffusion.batch_loss import BatchLoss
from symdream.diffusion.conditioning import tokenize

TIMESTEPS = [10, 250, 600, 990]
PRIOR = torch.tensor([2.0, 2.0, 1.0, 1.0])  # two photos and two class images at prior_loss_weight = 0.5
MASK = torch.ones(4, 1, 8, 16)
MASK[:2, ..., :8], MASK[2, ..., :8] = 0, 0.1  # the left half


@torch.no_grad()
@pytest.mark.parametrize(("weights", "mask", "gamma"), [(None, MASK, None), (PRIOR, None, 0.5), (PRIOR, MASK, 1e9)])
def test_weights_of_class_images_masks_and_noise_all_count(tiny_sd1, weights, mask, gamma):
    base = load_base(str(tiny_sd1))
    x0, noise = torch.randn(2, 4, 4, 8, 16, generator=torch.Generator().manual_seed(0))
    ids = tokenize(base, ["a photo of a sks toy", "a photo of a toy"])
    captions = [0, 0, 1, 1]
    batch = Batch(x0, noise, torch.tensor(TIMESTEPS), torch.tensor(captions), ids, weights=weights, mask=mask)

    total = 0.0
    for i, t in enumerate(TIMESTEPS):
        kept = base.scheduler.alphas_cumprod[t]
        x_t = kept.sqrt() * x0[i] + (1 - kept).sqrt() * noise[i]
        text = base.text_encoder(ids[0][captions[i]][None]).last_hidden_state
        squares = (base.unet(x_t[None], t, text).sample[0] - noise[i]).square().mean(0)
        m = torch.ones(8, 16) if mask is None else mask[i, 0]
        w = 1.0 if weights is None else float(weights[i])
        if gamma is not None:
            ratio = float(kept / (1 - kept))
            w *= min(ratio, gamma) / ratio
        total += w * float((m * squares).sum() / m.sum())

    loss = BatchLoss(base, train_text_encoder=False, min_snr_gamma=gamma)(batch)
    assert loss.item() == pytest.approx(total / 4, rel=1e-5)
