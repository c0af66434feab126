"""The four trainings: what each model is asked, on pictures that are composed as they are needed.

Every loss takes the model and its average, but no batch: it draws one on the device, so that the loop can record it as
part of a step. Pictures and losses are fp32, whatever the models compute in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.sprite.compose import Composer
from recipes.sprite.language import STYLES, drawing_of
from symdream.diffusion.loss import add_noise, min_snr_weights, sample_losses

KL_WEIGHT = 2e-6  # light: it only keeps the latents from drifting apart
GRADIENT_WEIGHT = 0.5
PERCEPTUAL_WEIGHT = 0.05
PERCEPTUAL_LAYERS = (2, 4, 6)
TEMPERATURE = 0.07  # of the instance-contrastive loss
PULL = 0.5  # weight of same instances' distance beside it
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04  # DINO, arXiv:2104.14294, section 3.1
PROTOTYPES = 1024
CENTRE_MOMENTUM = 0.9
MIN_SNR_GAMMA = 5.0
EMPTY = 0.1  # of the captions the UNet sees none: what guidance needs

Loss = Callable[[nn.Module, nn.Module], Tensor]


def vae_loss(composer: Composer, batch: int, perceptual: nn.Module) -> Loss:
    """L1 of pixels + L1 of their gradients + light KL + distance of DINO's patch features; pictures from -1 to 1.

    perceptual: a frozen DINO. Its patches lie on a grid of 16 pixels; both pictures are shifted alike by a random part
    of it (cyclically), so that no grid of errors stays unseen.
    """

    def features(pictures: Tensor, rows: Tensor, columns: Tensor) -> list[Tensor]:
        shifted = pictures[:, :, rows][..., columns].to(perceptual.dtype)
        states = perceptual(shifted, output_hidden_states=True).hidden_states
        return [F.normalize(states[i][:, 1:].float(), dim=-1) for i in PERCEPTUAL_LAYERS]

    def loss(vae: nn.Module, _: nn.Module) -> Tensor:
        pictures = composer.render(composer.draw(batch))
        latents = vae.encode(pictures.to(vae.dtype)).latent_dist
        mean, logvar = latents.mean.float(), latents.logvar.float()
        drawn = mean + (0.5 * logvar).exp() * torch.randn_like(mean)
        again = vae.decode(drawn.to(vae.dtype)).sample.float()
        edges = sum((again.diff(dim=d) - pictures.diff(dim=d)).abs().mean() for d in (-1, -2))
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / batch
        steps = torch.arange(pictures.shape[-1], device=pictures.device)
        rows, columns = ((steps + (torch.rand((), device=steps.device) * 16).long()) % len(steps) for _ in range(2))
        with torch.no_grad():
            target = features(pictures, rows, columns)
        seen = features(again, rows, columns)
        far = sum((1 - (a * b).sum(-1)).mean() for a, b in zip(seen, target, strict=True)) / len(PERCEPTUAL_LAYERS)
        pixels = (again - pictures).abs().mean()
        return pixels + GRADIENT_WEIGHT * edges + KL_WEIGHT * kl + PERCEPTUAL_WEIGHT * far

    return loss


def clip_loss(composer: Composer, batch: int) -> Loss:
    """CLIP's symmetric contrastive loss (arXiv:2103.00020, figure 3). Other pairs with the very same caption, which a
    caption that leaves things out makes likely, are no negatives."""
    words = torch.randint(1, 2**31, (composer.tables.length,), generator=torch.Generator().manual_seed(0))
    words = words.to(composer.device)

    def loss(clip: nn.Module, _: nn.Module) -> Tensor:
        scene = composer.draw(batch)
        ids = composer.token_ids(scene)
        pictures = composer.render(scene).to(clip.dtype)
        images = clip.visual_projection(clip.vision_model(pixel_values=pictures).pooler_output)
        texts = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        images, texts = (F.normalize(x.float(), dim=-1) for x in (images, texts))
        logits = clip.logit_scale.float().clamp(max=math.log(100)).exp() * (images @ texts.T)
        key = (ids * words).sum(1)  # one number a caption, to compare them all
        itself = torch.eye(batch, dtype=torch.bool, device=logits.device)
        logits = logits.masked_fill((key[:, None] == key[None]) & ~itself, -1e4)
        truth = torch.arange(batch, device=logits.device)
        return (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2

    return loss


class SelfDistilled(nn.Module):
    """A ViT with DINO's head: [CLS] -> MLP -> unit length -> scores of prototypes, (B, PROTOTYPES)."""

    def __init__(self, vit: nn.Module):
        super().__init__()
        width = vit.config.hidden_size
        self.vit = vit
        self.head = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, 128))
        self.prototypes = nn.Linear(128, PROTOTYPES, bias=False)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.prototypes(F.normalize(self.head(class_token(self.vit, pictures)), dim=-1)).float()


def class_token(vit: nn.Module, pictures: Tensor) -> Tensor:
    return vit(pictures.to(vit.dtype)).last_hidden_state[:, 0]


def distillation_loss(composer: Composer, batch: int) -> Loss:
    """DINO's self-distillation (arXiv:2104.14294, algorithm 1) with two views: one scene of the same things on two
    backgrounds, one of them blurred. The teacher is the student's average; its scores are centred and sharpened."""
    centre = torch.zeros(PROTOTYPES, device=composer.device)

    def loss(student: nn.Module, teacher: nn.Module) -> Tensor:
        first = composer.draw(batch)
        # One or two things on both. Drawn as a pair, so that of two none hides the other; that does for a single one.
        second = replace(composer.draw(batch, two=1), things=first.things, style=first.style)
        views = [composer.render(first), blurred(composer.render(second))]
        with torch.no_grad():
            scores = [teacher(view) for view in views]
            targets = [((score - centre) / TEACHER_TEMPERATURE).softmax(-1) for score in scores]
            centre.lerp_(torch.cat(scores).mean(0), 1 - CENTRE_MOMENTUM)
        guesses = [(student(view) / STUDENT_TEMPERATURE).log_softmax(-1) for view in views]
        pairs = ((targets[0], guesses[1]), (targets[1], guesses[0]))
        return -sum((target * guess).sum(-1).mean() for target, guess in pairs) / 2

    return loss


def instance_loss(composer: Composer, batch: int, vae: nn.Module) -> Loss:
    """Which of the others is the same sprite? InfoNCE between two pictures of each of `batch` sprites.

    The batch holds every thing it shows in two styles, the hardest of the negatives. First pictures are blurred a
    little; half of the second ones went through the VAE and back, so that what a base can draw counts as the same.
    """
    half = batch // 2
    device = composer.device

    def loss(vit: nn.Module, _: nn.Module) -> Tensor:
        scenes = [composer.draw(2 * half, two=0) for _ in range(2)]
        # Without repeats while there are things enough, so that no negative is the very same sprite.
        order = torch.rand(len(composer.things), device=device).argsort()
        things = order[torch.arange(half, device=device) % len(order)].repeat(2)
        style = (torch.rand(half, device=device) * len(STYLES)).long().clamp(max=len(STYLES) - 1)
        other = (style + 1 + (torch.rand(half, device=device) * (len(STYLES) - 1)).long()) % len(STYLES)
        shown = {"things": torch.stack([things, torch.full_like(things, -1)], 1), "style": torch.cat([style, other])}
        first, second = (composer.render(replace(scene, **shown)) for scene in scenes)
        with torch.no_grad():
            # Every other one: of both styles.
            latents = vae.encode(second[::2].to(vae.dtype)).latent_dist.mode()
            again = vae.decode(latents).sample.float().clamp(-1, 1)
            second = torch.stack([again, second[1::2]], 1).flatten(0, 1)
        a = F.normalize(class_token(vit, blurred(first)).float(), dim=-1)
        b = F.normalize(class_token(vit, second).float(), dim=-1)
        cosines = a @ b.T
        # No negatives: the very same sprite, and its like in the style that is the same drawing.
        code = shown["things"][:, 0] * len(STYLES) + drawing_of(shown["style"])
        itself = torch.eye(len(code), dtype=torch.bool, device=device)
        logits = (cosines / TEMPERATURE).masked_fill((code[:, None] == code[None]) & ~itself, -1e4)
        truth = torch.arange(len(code), device=device)
        nearest = (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2
        return nearest + PULL * (1 - cosines.diagonal()).mean()

    return loss


def blurred(pictures: Tensor) -> Tensor:
    """Each picture mixed with its blurred self (5 x 5, triangular) by a random amount; half of them not at all."""
    soft = F.avg_pool2d(F.avg_pool2d(F.pad(pictures, (2, 2, 2, 2), mode="replicate"), 3, 1), 3, 1)
    amount = (2 * torch.rand(len(pictures), 1, 1, 1, device=pictures.device) - 1).clamp(min=0)
    return torch.lerp(pictures, soft, amount)


class LatentPool:
    """Latents and captions of `size` compositions, a few of which `refill` replaces at a time, oldest first."""

    def __init__(self, vae: nn.Module, composer: Composer, size: int, refill: int):
        scale, device = vae.config.scaling_factor, composer.device
        side = vae.config.sample_size // 2 ** (len(vae.config.block_out_channels) - 1)
        precise = torch.float16 if device.type == "cuda" else torch.float32
        self.latents = torch.zeros(size, vae.config.latent_channels, side, side, dtype=precise, device=device)
        self.ids = torch.zeros(size, composer.tables.length, dtype=torch.int32, device=device)
        self.refills = -(-size // refill)  # calls that fill it once
        cursor = torch.arange(refill, device=device)

        @torch.no_grad()
        def fill() -> None:
            scene = composer.draw(refill)
            latents = vae.encode(composer.render(scene).to(vae.dtype)).latent_dist.mode() * scale
            self.latents.index_copy_(0, cursor, latents.to(precise))
            self.ids.index_copy_(0, cursor, composer.token_ids(scene).int())
            cursor.add_(refill).remainder_(size)

        self.fill = fill

    def draw(self, batch: int) -> tuple[Tensor, Tensor]:
        """latents (B, 4, h, w) fp32 and captions' tokens (B, 77)."""
        rows = (torch.rand(batch, device=self.ids.device) * len(self.ids)).long().clamp(max=len(self.ids) - 1)
        return self.latents[rows].float(), self.ids[rows].long()


def unet_loss(text_encoder: nn.Module, pool: LatentPool, tables, alphas: Tensor, batch: int) -> Loss:
    """The squared error of the noise, weighted by min-SNR-γ; a tenth of the pictures come without their caption.

    tables: the composer's TokenTables; alphas: cumulated, of the base's schedule, (T,).
    """
    device = alphas.device
    empty = torch.full((1, tables.length), tables.end, device=device)
    empty[0, 0] = tables.start

    def loss(unet: nn.Module, _: nn.Module) -> Tensor:
        latents, ids = pool.draw(batch)
        ids = torch.where(torch.rand(batch, 1, device=device) < EMPTY, empty, ids)
        with torch.no_grad():
            hidden = text_encoder(input_ids=ids).last_hidden_state
        noise = torch.randn_like(latents)
        timesteps = (torch.rand(batch, device=device) * len(alphas)).long().clamp(max=len(alphas) - 1)
        noisy = add_noise(latents, noise, alphas, timesteps)
        prediction = unet(noisy.to(unet.dtype), timesteps, hidden.to(unet.dtype)).sample
        weights = min_snr_weights(alphas, timesteps, MIN_SNR_GAMMA, "epsilon")
        return sample_losses(prediction, noise, weights).mean()

    return loss
