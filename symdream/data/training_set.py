"""The training set of one run: photos as cached latents, captions as token ids or embeddings, all on the device.

A batch is a pure function of (seed, step): which photo and which cut of it, which caption, which timestep, which
noise (symdream.data.draws; the bucket of a step: symdream.data.turns).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from symdream.data import draws
from symdream.data.buckets import Cut, assign, cuts, shapes
from symdream.data.captions import thinned
from symdream.data.latents import LatentCache
from symdream.data.masks import latent_weights
from symdream.data.photos import Photo, Photos
from symdream.data.store import Store
from symdream.data.texts import embed_all
from symdream.data.turns import turn
from symdream.diffusion.base import Base
from symdream.diffusion.batch import Batch, send
from symdream.diffusion.conditioning import size_ids, tokenize
from symdream.diffusion.loss import offset_noise
from symdream.errors import RequestError

if TYPE_CHECKING:  # a bare GPU machine may lack pydantic, and the benchmarks need only what is below
    from symdream.config import TrainConfig


@dataclass
class Bucket:
    """Everything of one picture size (width, height): V cuts of photos and class images, by row.

    entries: indices of photos, each as often as it repeats. photo_rows: for each photo its places, for each place
    the row of the plain cut and, with flip, of the mirrored one. class_rows: rows by class prompt.
    mean, std (V, 4, h, w); sizes (V, 6); masks (V, 1, h, w) or None.
    """

    size: tuple[int, int]
    entries: list[int] = field(default_factory=list)
    photo_rows: dict[int, list[list[int]]] = field(default_factory=dict)
    class_rows: dict[str, list[int]] = field(default_factory=dict)
    mean: Tensor | list[Tensor] = field(default_factory=list)
    std: Tensor | list[Tensor] = field(default_factory=list)
    sizes: Tensor | list[Tensor] = field(default_factory=list)
    masks: Tensor | list[Tensor] | None = field(default_factory=list)


class TrainingSet:
    """Latents and captions on the device, and the batches drawn from them.

    `step_samples` is how many samples one optimizer step takes over all its forward passes and processes: they share
    a bucket. `frozen_text`: no text encoder is trained, so captions are encoded here, once.
    Raises: RequestError if a mask leaves nothing of its photo; WorkError naming a photo that cannot be encoded.
    """

    def __init__(
        self,
        base: Base,
        photos: Photos,
        config: TrainConfig,
        store: Store,
        *,
        step_samples: int,
        frozen_text: bool,
    ):
        self.photos, self.options = photos, config.data
        self.step_samples, self.noise_offset = step_samples, config.loss.noise_offset
        self.prior_weight = config.prior.prior_loss_weight
        self.scaling_factor = base.vae.config.scaling_factor
        self.vae_factor = 2 ** (len(base.vae.config.block_out_channels) - 1)
        self.timesteps = base.scheduler.config.num_train_timesteps
        self.device = base.device
        self.buckets = self._fill_buckets(LatentCache(base.vae, store), config.model.resolution)
        self._read_texts(base, store, frozen_text)

    def _fill_buckets(self, latents: LatentCache, resolution: int) -> list[Bucket]:
        sizes = shapes(resolution, self.vae_factor, buckets=self.options.buckets)
        buckets: dict[tuple[int, int], Bucket] = {}
        for index, photo in enumerate(self.photos.photos):
            shape = assign(photo.image.size, sizes)
            bucket = buckets.setdefault(shape, Bucket(shape))
            bucket.entries += [index] * photo.repeats
            bucket.photo_rows[index] = self._add_photo(bucket, photo, latents)
        for bucket in buckets.values():
            for prompt, images in self.photos.class_images.items():
                bucket.class_rows[prompt] = []
                for image in images:
                    [[cut]] = cuts(image.size, bucket.size, "center")
                    encoded = latents(image.sha256, cut, image.read, str(image.path), converted=image.converted)
                    whole = latent_weights(None, cut, self.vae_factor, 0)
                    bucket.class_rows[prompt].append(self._add(bucket, cut, encoded, whole))
        masked = any(photo.mask for photo in self.photos.photos)
        for bucket in buckets.values():
            for name in ("mean", "std", "sizes", "masks"):
                setattr(bucket, name, torch.stack(getattr(bucket, name)).to(self.device))
            if not masked:
                bucket.masks = None
        return [buckets[shape] for shape in sorted(buckets)]

    def _add_photo(self, bucket: Bucket, photo: Photo, latents: LatentCache) -> list[list[int]]:
        places = []
        for place in cuts(photo.image.size, bucket.size, self.options.crop, flip=self.options.flip):
            # By the mask alone: with a strength below 1 every weight is above 0, and where all of a cut are alike they
            # cancel in the loss, so that a cut of mere background would count as much as one of the subject.
            if not latent_weights(photo.mask, place[0], self.vae_factor, 1).any():
                continue  # this place shows nothing of the subject
            masks = [latent_weights(photo.mask, cut, self.vae_factor, self.options.mask_strength) for cut in place]
            encoded = [
                latents(photo.sha256, cut, lambda: photo.image, str(photo.path), converted=photo.converted)
                for cut in place
            ]
            places.append([self._add(bucket, *one) for one in zip(place, encoded, masks, strict=True)])
        if not places:
            raise RequestError(
                f"The mask of {photo.path} leaves nothing of the photo when it is cut to "
                f"{bucket.size[0]} × {bucket.size[1]} pixels.",
                fix="crop the photo around the subject, take --buckets, or --mask-strength 0, which ignores masks",
            )
        return places

    @staticmethod
    def _add(bucket: Bucket, cut: Cut, latents: dict[str, Tensor], mask: Tensor) -> int:
        bucket.mean.append(latents["mean"])
        bucket.std.append(latents["std"])
        bucket.sizes.append(size_ids(cut.photo[::-1], cut.top_left, cut.size[::-1]))
        bucket.masks.append(mask)
        return len(bucket.mean) - 1

    def _read_texts(self, base: Base, store: Store, frozen: bool) -> None:
        """`variants[photo]`: rows of its caption, one for each way tag dropout may thin it."""
        rate = self.options.tag_dropout
        shown = [thinned(photo.caption, rate, photo.trigger) for photo in self.photos.photos]
        texts = {text for variants in shown for text in variants} | set(self.photos.class_prompts)
        if self.options.caption_dropout:
            texts.add("")
        self.texts = sorted(texts)
        self.row = {text: row for row, text in enumerate(self.texts)}
        self.variants = [[self.row[text] for text in variants] for variants in shown]
        self.token_ids = tuple(ids.to(self.device) for ids in tokenize(base, self.texts))
        self.text = embed_all(base, self.texts, store) if frozen else None

    def captions(self, batch_size: int) -> int:
        """How many different captions a batch of so many samples can have."""
        return min(batch_size * (2 if self.photos.class_images else 1), len(self.texts))

    def batch(self, seed: int, samples: Sequence[int]) -> Batch:
        """The batch of the given global sample indices, all of one step."""
        bucket, photos = self.shown(seed, samples)
        rows, captions = [], []
        for k, photo in zip(samples, photos, strict=True):
            rows.append(self._photo_row(bucket, photo, seed, k))
            captions.append(self._caption_row(photo, seed, k))
        parts = [self._draw(bucket, rows, seed, samples, "")]
        weights = None
        if self.photos.class_images:
            prompts = [self.photos.class_prompts[self.photos.photos[photo].subject] for photo in photos]
            class_rows = [self._class_row(bucket, p, seed, k) for p, k in zip(prompts, samples, strict=True)]
            parts.append(self._draw(bucket, class_rows, seed, samples, "class "))
            rows += class_rows
            captions += [self.row[prompt] for prompt in prompts]
            # mean over 2B of 2 w_i l_i = mean over the photos + prior_loss_weight · mean over the class images
            weights = self._send(torch.tensor([2.0] * len(samples) + [2.0 * self.prior_weight] * len(samples)))
        x0, noise, timesteps = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        # Photos mostly share one caption: each different caption goes through the text encoder once.
        used = sorted(set(captions))
        shown, row_ids = self._send(torch.tensor(used)), self._send(torch.tensor(rows))
        return Batch(
            x0=x0,
            noise=noise,
            timesteps=timesteps,
            captions=self._send(torch.tensor([used.index(row) for row in captions])),
            token_ids=tuple(ids[shown] for ids in self.token_ids),
            text=None if self.text is None else self.text.rows(shown),
            sizes=bucket.sizes[row_ids],
            weights=weights,
            mask=None if bucket.masks is None else bucket.masks[row_ids],
        )

    def _send(self, tensor: Tensor) -> Tensor:
        return send(tensor, self.device)

    def shown(self, seed: int, samples: Sequence[int]) -> tuple[Bucket, list[int]]:
        """The bucket of the samples' step, and the photo that each sample shows."""
        step = samples[0] // self.step_samples
        assert samples[-1] // self.step_samples == step, "samples of two steps in one batch"
        number, visit = turn(seed, step, [len(bucket.entries) for bucket in self.buckets])
        bucket = self.buckets[number]
        stream = "image" if len(self.buckets) == 1 else f"image {bucket.size}"
        shift = (visit - step) * self.step_samples  # from the run's samples to those of this bucket
        count = len(bucket.entries)
        return bucket, [bucket.entries[draws.image_index(seed, k + shift, count, stream)] for k in samples]

    def _photo_row(self, bucket: Bucket, photo: int, seed: int, k: int) -> int:
        places = bucket.photo_rows[photo]
        place = places[int(draws.uniform(seed, k, "crop") * len(places))] if len(places) > 1 else places[0]
        return place[draws.uniform(seed, k, "flip") < 0.5] if len(place) > 1 else place[0]

    def _caption_row(self, photo: int, seed: int, k: int) -> int:
        if self.options.caption_dropout and draws.uniform(seed, k, "caption dropout") < self.options.caption_dropout:
            return self.row[""]
        variants = self.variants[photo]
        return variants[int(draws.uniform(seed, k, "tags") * len(variants))] if len(variants) > 1 else variants[0]

    def _class_row(self, bucket: Bucket, prompt: str, seed: int, k: int) -> int:
        rows = bucket.class_rows[prompt]
        return rows[draws.image_index(seed, k, len(rows), "class image")]

    def _draw(
        self, bucket: Bucket, rows: list[int], seed: int, samples: Sequence[int], stream: str
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x0, noise and timesteps of the rows; `stream` keeps class images' draws apart from photos'."""
        row_ids = self._send(torch.tensor(rows))
        mean, std = bucket.mean[row_ids], bucket.std[row_ids]
        shape = tuple(mean.shape[1:])
        noise = self._send(torch.stack([draws.normal(seed, k, shape, stream + "noise") for k in samples]))
        if self.noise_offset:
            offsets = torch.stack([draws.normal(seed, k, (shape[0], 1, 1), stream + "offset") for k in samples])
            noise = offset_noise(noise, self._send(offsets), self.noise_offset)
        posterior = self._send(torch.stack([draws.normal(seed, k, shape, stream + "latent") for k in samples]))
        steps = [draws.timestep(seed, k, self.timesteps, stream + "timestep") for k in samples]
        timesteps = self._send(torch.tensor(steps))
        return self.scaling_factor * (mean + std * posterior), noise, timesteps
