"""Options of [data], [prior] and [[subjects]] in the real trainer, on tiny models of the real shapes."""

import json
import shutil
import tomllib

import numpy as np
import pytest
import torch
from helpers.encoder_folders import write_clip, write_vit
from helpers.runs import adapter_tensors, make_photos, stop_after, symdream, tiny_config
from PIL import Image

from symdream import settings
from symdream.data import draws
from symdream.data.photos import add_class_images, read_photos
from symdream.data.store import Store
from symdream.data.training_set import TrainingSet
from symdream.diffusion.base import load_base
from symdream.errors import Problems, RequestError, Stopped
from symdream.training.defaults import resolve
from symdream.training.request import check_subject
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training


def make_subject(folder, shapes=((80, 64), (64, 96), (90, 70)), *, mask=True, tags=True):
    """Photos of several shapes, the first with a mask, each with a caption of tags."""
    make_photos(folder, len(shapes))
    for number, size in enumerate(shapes):
        path = folder / f"{number:02d}.png"
        with Image.open(path) as image:
            image.resize(size).save(path)
        if tags:
            path.with_suffix(".txt").write_text("{subject}, a disc, noise, bright", encoding="utf-8")
    if mask:
        pixels = np.zeros(shapes[0][::-1], np.uint8)
        pixels[10:50, 20:60] = 255
        Image.fromarray(pixels).save(folder / "00_mask.png")
    return folder


EVERYTHING = {
    "buckets": True,
    "crop": "random",
    "flip": True,
    "tag_dropout": 0.3,
    "caption_dropout": 0.2,
    "mask_strength": 0.9,
    "class_count": 3,
    "prior_loss_weight": 0.7,
    "accumulation": 2,
    "batch_size": 1,
}


def two_subjects(base, one, other, **flags):
    """The settings of a run over two subjects, the second counting double."""
    given = {"base": str(base), "steps": 6, "batch_size": 2, "rank": 4, "lr": 1e-3, "checkpoint_every": 0,
             "tensorboard": False, "device": "cpu", **flags}  # fmt: skip
    tables = [
        {"images": str(one), "class_noun": "toy", "trigger": "sks"},
        {"images": str(other), "class_noun": "toy", "trigger": "zwx", "repeats": 2},
    ]
    return settings.build(settings.merge({"subjects": tables}, given), checks=(check_subject,))


def training_set(base, config, cache, *, step_samples=2, frozen=False):
    config = resolve(config, base)
    photos = read_photos(config)
    add_class_images(photos, config, base, quiet=True)
    store = Store(cache)
    return TrainingSet(base, photos, config, store, step_samples=step_samples, frozen_text=frozen), store


def stop_and_resume(folder, config, at=3):
    run = RunFolder.create(folder)
    stop_after(run, at)
    with pytest.raises(Stopped, match=f"after step {at}"):
        run_training(run, config)
    stored = settings.build(tomllib.loads(run.config.read_text(encoding="utf-8")))
    run_training(run, stored, resume=True)
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "components"),
    [("tiny_sd1", "unet"), ("tiny_sd1", "both"), ("tiny_sd2", "unet"), ("tiny_sd2", "both"), ("tiny_sdxl", "unet")],
)
def test_with_every_option_on_a_stopped_and_resumed_run_equals_an_unbroken_one(tmp_path, request, base, components):
    folder = request.getfixturevalue(base)
    one, other = make_subject(tmp_path / "one é"), make_subject(tmp_path / "other", ((64, 64), (96, 60)))
    flags = {**EVERYTHING, "components": components, "steps": 4}
    whole = RunFolder.create(tmp_path / "whole")
    run_training(whole, two_subjects(folder, one, other, cache_dir=tmp_path / "cache", **flags))
    # The second run has an empty cache of its own, and once more after the stop.
    config = two_subjects(folder, one, other, cache_dir=tmp_path / "cache 2", **flags)
    broken = stop_and_resume(tmp_path / "broken", config, at=2)
    ours, theirs = adapter_tensors(whole), adapter_tensors(broken)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    metadata = json.loads((whole.path / "summary.json").read_text())
    assert [subject["trigger"] for subject in metadata["subjects"]] == ["sks", "zwx"]


@pytest.fixture(scope="module")
def base(tiny_sd1):
    return load_base(str(tiny_sd1))


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    return make_subject(tmp_path_factory.mktemp("subjects") / "mine")


def test_without_options_a_batch_is_what_it_always_was(tmp_path, base, tiny_sd1, photos):
    """The draws of the first version, written out."""
    from symdream.data.images import read_folder
    from symdream.data.latents import to_tensor

    data, _ = training_set(base, tiny_config(tiny_sd1, photos), tmp_path, step_samples=3)
    batch = data.batch(5, range(6, 9))
    images = list(read_folder(photos).images.values())
    for place, k in enumerate(range(6, 9)):
        image = images[draws.image_index(5, k, 3)]
        left = (image.width - 64) // 2
        pixels = to_tensor(image.crop((left, 0, left + 64, 64)).resize((64, 64), Image.Resampling.LANCZOS))
        with torch.no_grad():
            posterior = base.vae.encode(pixels[None]).latent_dist
        x0 = base.vae.config.scaling_factor * (
            posterior.mean[0] + posterior.std[0] * draws.normal(5, k, (4, 8, 8), "latent")
        )
        assert torch.equal(batch.x0[place], x0)
        assert torch.equal(batch.noise[place], draws.normal(5, k, (4, 8, 8), "noise"))
        assert batch.timesteps[place] == draws.timestep(5, k, 1000)
    assert batch.weights is None and batch.mask is None and batch.text is None


def test_the_latents_of_a_mirrored_photo_are_those_of_the_mirrored_pixels(tmp_path, base, tiny_sd1, subject):
    from symdream.data.buckets import cuts
    from symdream.data.images import read_image
    from symdream.data.latents import encode

    data, _ = training_set(base, tiny_config(tiny_sd1, subject, flip=True), tmp_path)
    [bucket] = data.buckets
    for number in range(3):
        [[plain, mirrored]] = bucket.photo_rows[number]
        image = read_image(subject / f"{number:02d}.png")
        [[cut]] = cuts(image.size, (64, 64), "center")
        pixels = cut.apply(image)
        for row, seen in ((plain, pixels), (mirrored, pixels.transpose(Image.Transpose.FLIP_LEFT_RIGHT))):
            expected = encode(base.vae, seen, "x")
            assert torch.equal(bucket.mean[row], expected["mean"]) and torch.equal(bucket.std[row], expected["std"])
    assert torch.equal(bucket.masks[bucket.photo_rows[0][0][1]], bucket.masks[bucket.photo_rows[0][0][0]].flip(-1))


@pytest.mark.parametrize("per_forward", [1, 2, 6])
def test_every_photo_is_shown_as_often_as_its_repeats_say(tmp_path, base, tiny_sd1, subject, per_forward):
    other = make_subject(tmp_path / "other", ((64, 64), (96, 60)), mask=False)
    data, _ = training_set(
        base, two_subjects(tiny_sd1, subject, other, buckets=True), tmp_path / "cache", step_samples=6
    )
    assert len(data.buckets) >= 3
    total = 3 + 2 * 2
    shown = []
    for first in range(0, 6 * total, per_forward):
        bucket, photos = data.shown(1, range(first, first + per_forward))
        assert all(photo in bucket.photo_rows for photo in photos)
        shown += photos
    assert [shown.count(photo) for photo in range(5)] == [6, 6, 6, 12, 12]


def test_all_forward_passes_of_a_step_share_a_bucket(tmp_path, base, tiny_sd1, subject):
    data, _ = training_set(base, tiny_config(tiny_sd1, subject, buckets=True), tmp_path, step_samples=4)
    for step in range(12):
        halves = [data.shown(0, range(4 * step + i, 4 * step + i + 2)) for i in (0, 2)]
        assert halves[0][0] is halves[1][0]
        assert halves[0][1] + halves[1][1] == data.shown(0, range(4 * step, 4 * step + 4))[1]


def test_buckets_keep_the_photos_shapes(tmp_path, base, tiny_sd1, subject):
    data, _ = training_set(base, tiny_config(tiny_sd1, subject, buckets=True), tmp_path)
    shapes = {photo: tuple(bucket.mean.shape[2:]) for bucket in data.buckets for photo in bucket.photo_rows}
    assert shapes[0] != shapes[1] and shapes[1][0] > shapes[1][1], "the second photo is upright"
    for step in range(3):
        batch = data.batch(0, range(2 * step, 2 * step + 2))
        assert tuple(batch.sizes[0, 4:]) == tuple(8 * side for side in batch.x0.shape[2:])


def test_flips_crops_and_dropped_captions_come_as_often_as_asked(tmp_path, base, tiny_sd1, subject):
    config = tiny_config(
        tiny_sd1, subject, flip=True, crop="random", tag_dropout=0.5, caption_dropout=0.25, batch_size=1
    )
    data, _ = training_set(base, config, tmp_path, step_samples=1)
    [bucket] = data.buckets
    count = 1200
    rows = [data._photo_row(bucket, 1, 0, k) for k in range(count)]
    places = bucket.photo_rows[1]
    assert len(places) == 4 and all(len(place) == 2 for place in places)
    for row in (row for place in places for row in place):
        assert abs(rows.count(row) / count - 1 / 8) < 0.04  # 4 standard errors
    captions = [data.texts[data._caption_row(0, 0, k)] for k in range(count)]
    assert abs(captions.count("") / count - 0.25) < 0.05
    tags = [set(caption.split(", ")) for caption in captions if caption]
    assert all("sks toy" in shown for shown in tags), "the tag with the trigger stays"
    for tag in ("a disc", "noise", "bright"):
        assert abs(sum(tag in shown for shown in tags) / len(tags) - 0.5) < 0.25  # 32 variants: 3 standard errors


def test_the_unet_is_told_the_size_of_an_upright_photo_and_where_it_was_cut(tmp_path, base, tiny_sd1):
    folder = make_subject(tmp_path / "photos", ((96, 200),), mask=False)
    data, _ = training_set(base, tiny_config(tiny_sd1, folder, buckets=True, crop="random"), tmp_path, step_samples=1)
    # Scaled to the bucket's width, 48, the photo is 100 pixels high, of which 80 are shown, from 0 to 20 on at most.
    told = {tuple(data.batch(0, [k]).sizes[0].tolist()) for k in range(40)}
    assert told == {(200, 96, top, 0, 80, 48) for top in (0, 6, 13, 20)}


def test_the_tag_of_each_subjects_own_trigger_stays_wherever_it_stands(tmp_path, base, tiny_sd1):
    folders = [make_subject(tmp_path / name, ((64, 64),), mask=False) for name in ("one", "other")]
    for folder in folders:
        (folder / "00.txt").write_text("night, forest, {subject}, red")
    data, _ = training_set(base, two_subjects(tiny_sd1, *folders, tag_dropout=0.5), tmp_path / "cache")
    for variants, trigger in zip(data.variants, ("sks", "zwx"), strict=True):
        shown = [data.texts[row].split(", ") for row in variants]
        assert all(f"{trigger} toy" in tags for tags in shown)
        assert 0 < sum("night" in tags for tags in shown) < len(shown)


def test_captions_are_dropped_whatever_tags_they_would_have_shown(tmp_path, base, tiny_sd1):
    folder = make_subject(tmp_path / "photos", ((64, 64),), mask=False)
    (folder / "00.txt").write_text("{subject}, one, two, three, four, five, six, seven")
    sets = [
        training_set(base, tiny_config(tiny_sd1, folder, tag_dropout=0.5, **more), tmp_path, step_samples=1)[0]
        for more in ({}, {"caption_dropout": 0.25})
    ]
    kept, dropping = ([data.texts[data._caption_row(0, 0, k)] for k in range(1200)] for data in sets)
    assert len(set(kept)) > 20 and all(now in (before, "") for before, now in zip(kept, dropping, strict=True))
    shown = {text: [now == text for before, now in zip(kept, dropping, strict=True) if before == text] for text in kept}
    assert all(any(each) and not all(each) for each in shown.values())


def test_offset_noise_is_drawn_apart_from_the_noise(tmp_path, base, tiny_sd1, photos):
    data, _ = training_set(base, tiny_config(tiny_sd1, photos, noise_offset=0.5), tmp_path)
    batch = data.batch(5, range(6, 8))
    for place, k in enumerate(range(6, 8)):
        expected = draws.normal(5, k, (4, 8, 8), "noise") + 0.5 * draws.normal(5, k, (4, 1, 1), "offset")
        assert torch.equal(batch.noise[place], expected)


def test_each_subjects_photos_are_beside_class_images_of_its_own_prompt(
    tmp_path, tiny_sd1, subject, few_denoising_steps
):
    other = make_subject(tmp_path / "other", ((64, 64),), mask=False, tags=False)
    config = two_subjects(tiny_sd1, subject, other, class_count=1)
    config.learned[1].class_noun = "cup"
    data, _ = training_set(load_base(str(tiny_sd1)), config, tmp_path / "cache")
    prompts, seen = {0: "a photo of a toy", 1: "a photo of a cup"}, set()
    for first in range(0, 20, 2):
        batch, photos = data.batch(0, range(first, first + 2)), data.shown(0, range(first, first + 2))[1]
        said = batch.token_ids[0][batch.captions[2:]]
        for ids, photo in zip(said, photos, strict=True):
            of = data.photos.photos[photo].subject
            assert torch.equal(ids, data.token_ids[0][data.row[prompts[of]]])
            seen.add(of)
    assert seen == {0, 1}


def test_class_images_are_half_of_a_batch_with_their_weight_and_prompt(tmp_path, base, tiny_sd1, photos):
    config = tiny_config(tiny_sd1, photos, class_count=3, prior_loss_weight=0.5)
    data, _ = training_set(base, config, tmp_path)
    plain, _ = training_set(base, tiny_config(tiny_sd1, photos), tmp_path)
    with_prior, without = data.batch(0, range(4, 6)), plain.batch(0, range(4, 6))
    for name in ("x0", "noise", "timesteps"):
        assert torch.equal(getattr(with_prior, name)[:2], getattr(without, name)), f"{name} of the photos is unchanged"
    assert with_prior.weights.tolist() == [2, 2, 1, 1] and len(with_prior.x0) == 4
    assert not torch.equal(with_prior.noise[2:], with_prior.noise[:2])
    assert data.texts == ["a photo of a sks toy", "a photo of a toy"]
    first, second = (data.buckets[0].mean[row] for row in data.buckets[0].class_rows["a photo of a toy"][:2])
    assert not torch.equal(first, second)
    # mean over 2B of w l = mean of the photos' + weight · mean of the class images' losses
    losses = torch.tensor([1.0, 3.0, 10.0, 20.0])
    assert (with_prior.weights * losses).mean() == losses[:2].mean() + 0.5 * losses[2:].mean()


def test_each_sample_is_weighted_by_its_own_photos_mask_and_class_images_are_whole(tmp_path, base, tiny_sd1, subject):
    classes = make_photos(tmp_path / "classes", 2)
    config = tiny_config(tiny_sd1, subject, mask_strength=0.9, class_images=classes)
    data, _ = training_set(base, config, tmp_path / "cache", step_samples=3)
    # The photo of 80 × 64 pixels is cut to its middle 64 × 64, and a latent pixel is the mean of 8 × 8 of them.
    pixels = torch.zeros(64, 80)
    pixels[10:50, 20:60] = 1
    masked = 0.1 + 0.9 * pixels[:, 8:72].view(8, 8, 8, 8).mean(dim=(1, 3))
    for first in range(0, 12, 3):
        batch, photos = data.batch(0, range(first, first + 3)), data.shown(0, range(first, first + 3))[1]
        assert sorted(photos) == [0, 1, 2]
        for photo, mask in zip(photos, batch.mask[:3], strict=True):
            torch.testing.assert_close(mask[0], masked if photo == 0 else torch.ones(8, 8), atol=1 / 255, rtol=0)
        assert (batch.mask[3:] == 1).all() and len(batch.mask) == 6


def test_every_class_image_is_shown_once_before_one_is_shown_again(tmp_path, base, tiny_sd1, photos):
    classes = make_photos(tmp_path / "classes", 4)
    data, _ = training_set(base, tiny_config(tiny_sd1, photos, class_images=classes), tmp_path / "cache")
    [bucket], shown = data.buckets, []
    rows = bucket.class_rows["a photo of a toy"]
    for first in range(0, 12, 2):
        batch = data.batch(3, range(first, first + 2))
        for x0, k in zip(batch.x0[2:], (first, first + 1), strict=True):
            latents = bucket.mean[rows] + bucket.std[rows] * draws.normal(3, k, tuple(x0.shape), "class latent")
            [number] = [n for n, one in enumerate(latents) if torch.allclose(data.scaling_factor * one, x0)]
            shown.append(number)
    assert [sorted(shown[epoch : epoch + 4]) for epoch in (0, 4, 8)] == [[0, 1, 2, 3]] * 3


def test_class_images_are_made_once_completed_and_repaired(tmp_path, base, tiny_sd1, photos, capsys, monkeypatch):
    from symdream.data import class_images

    drawn = []
    real = class_images.sample

    def counting(base, prompts, seeds, **kwargs):
        drawn.append(list(seeds))
        return real(base, prompts, seeds, steps=2, **kwargs)

    monkeypatch.setattr(class_images, "sample", counting)

    def make(count, prompt="a toy", resolution=64):
        drawn.clear()
        return class_images.from_base(base, prompt, count, resolution, tmp_path, quiet=True)

    first = class_images.FIRST_SEED
    made = make(5)
    assert drawn == [[first + i for i in range(4)], [first + i for i in range(4, 8)]]
    assert make(5) == made and not drawn
    assert make(2) == made[:2] and not drawn
    assert make(9)[:5] == made and drawn == [[first + i for i in range(8, 12)]]
    made[1].path.write_bytes(made[1].path.read_bytes()[:-20])
    assert make(5) == made and drawn == [[first + i for i in range(4)]], "drawn again, to the same bits"
    assert make(1, "a doll")[0].path.parent != made[0].path.parent
    assert make(1, resolution=128)[0].path.parent != made[0].path.parent

    def interrupted(base, prompts, seeds, **kwargs):
        if seeds[0] > first + 3:
            raise KeyboardInterrupt
        return counting(base, prompts, seeds, **kwargs)

    monkeypatch.setattr(class_images, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(8, "a lamp")
    monkeypatch.setattr(class_images, "sample", counting)
    make(8, "a lamp")
    assert drawn == [[first + i for i in range(4, 8)]], "what was done before the interruption is kept"


def test_resuming_with_other_class_images_is_refused(tmp_path, tiny_sd1, photos):
    classes = make_photos(tmp_path / "classes", 4)
    config = tiny_config(tiny_sd1, photos, class_images=classes, steps=1, components="unet")
    run = RunFolder.create(tmp_path / "run")
    run_training(run, config)
    (classes / "03.png").unlink()
    with pytest.raises(RequestError, match="class images"):
        run_training(run, config, resume=True)


def test_a_run_goes_on_with_class_images_that_were_drawn_again_a_little_differently(
    tmp_path, tiny_sd1, photos, capsys, few_denoising_steps
):
    cache = tmp_path / "cache"
    config = tiny_config(tiny_sd1, photos, class_count=2, steps=2, components="unet", cache_dir=cache)
    run = RunFolder.create(tmp_path / "run")
    run_training(run, config.model_copy(deep=True))
    run_training(run, config.model_copy(deep=True), resume=True)
    assert "drawn again" not in capsys.readouterr().err
    [file] = cache.glob("class-images/*/00001.png")
    with Image.open(file) as image:
        image.putpixel((0, 0), tuple(255 - value for value in image.getpixel((0, 0))))
        image.save(file)
    old = run.env.read_text()
    run_training(run, config.model_copy(deep=True), resume=True)
    assert "class images were drawn again" in capsys.readouterr().err
    # Where it is not written down how they were drawn, other pictures may be other class images.
    content = json.loads(old)
    assert content.pop("class_recipe") == {"prompts": ["a photo of a toy"], "count": 2, "resolution": 64}
    run.env.write_text(json.dumps(content))
    with pytest.raises(RequestError, match="class images"):
        run_training(run, config.model_copy(deep=True), resume=True)
    run.env.write_text(old)
    with pytest.raises(RequestError, match="class images"):
        run_training(run, tiny_config(tiny_sd1, photos, class_count=3, steps=2, cache_dir=cache), resume=True)


def test_a_second_start_encodes_nothing_and_trains_the_same(tmp_path, tiny_sd1, subject, capsys):
    config = tiny_config(tiny_sd1, subject, components="unet", steps=2, cache_dir=tmp_path / "cache", flip=True)
    runs = []
    for name in ("first", "second"):
        runs.append(RunFolder.create(tmp_path / name))
        run_training(runs[-1], config)
    first, second = map(adapter_tensors, runs)
    assert all(torch.equal(first[name], second[name]) for name in first)
    err = capsys.readouterr().err
    assert "(6 made)" in err and "(6 from the cache)" in err
    seconds = runs[1].read_summary()["startup_seconds"]
    assert seconds["photos"] + seconds["adapter"] + seconds["latents"] < 5


def test_a_stale_cache_is_never_used(tmp_path, base, tiny_sd1, tiny_sd2):
    folder = make_subject(tmp_path / "photos", ((96, 64), (64, 96)), mask=False)
    cache = tmp_path / "cache"

    def counts(**change):
        model = change.pop("model", base)
        _, store = training_set(model, tiny_config(tiny_sd1, folder, **change), cache, frozen=True)
        return store.found["latents"], store.made["latents"]

    assert counts() == (0, 2) and counts() == (2, 0)
    assert counts(resolution=128) == (0, 2)
    assert counts(crop="random") == (0, 8), "other places than the middle"
    assert counts(buckets=True) == (0, 2)
    assert counts(model=load_base(str(tiny_sd2))) == (0, 2), "another VAE"
    with Image.open(folder / "01.png") as image:
        image.transpose(Image.Transpose.ROTATE_180).save(folder / "01.png")
    assert counts() == (1, 1)
    shutil.move(folder / "00.png", folder / "renamed.png")
    assert counts() == (2, 0), "a name is not content"
    with torch.no_grad():
        other = load_base(str(tiny_sd1))
        other.vae.encoder.conv_in.bias[0] += 1e-3
    assert counts(model=other) == (0, 2)


def test_cached_embeddings_are_the_text_encoders_own(tmp_path, base, tiny_sd1, subject):
    from symdream.diffusion.conditioning import encode

    data, store = training_set(base, tiny_config(tiny_sd1, subject, tag_dropout=0.5), tmp_path, frozen=True)
    assert store.made["texts"] == len(data.texts) > 3
    batch = data.batch(0, range(2, 4))
    with torch.no_grad():
        expected = encode(base, batch.token_ids).hidden
    torch.testing.assert_close(batch.text.hidden, expected, rtol=0, atol=1e-5)
    _, again = training_set(base, tiny_config(tiny_sd1, subject, tag_dropout=0.5), tmp_path, frozen=True)
    assert again.made["texts"] == 0


def test_a_half_precision_vae_encodes_in_fp32_and_stays_half(base):
    from copy import deepcopy

    from symdream.data.latents import encode

    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    half = deepcopy(base.vae).half()
    encoded = encode(half, image, "a.png")
    assert encoded["mean"].dtype == torch.float32 and next(half.parameters()).dtype == torch.float16
    full = encode(deepcopy(half).float(), image, "a.png")
    assert torch.equal(encoded["mean"], full["mean"])


def test_a_photo_whose_mask_the_crop_misses_is_named_and_random_crops_find_it(tmp_path, base, tiny_sd1):
    folder = make_subject(tmp_path / "photos", ((200, 64),), mask=False)
    mask = np.zeros((64, 200), np.uint8)
    mask[:, :30] = 255
    Image.fromarray(mask).save(folder / "00_mask.png")
    for strength in (1, 0.5):
        with pytest.raises(RequestError, match="leaves nothing") as caught:
            training_set(base, tiny_config(tiny_sd1, folder, mask_strength=strength), tmp_path / "cache")
        assert "00.png" in str(caught.value)
        data, _ = training_set(
            base, tiny_config(tiny_sd1, folder, crop="random", mask_strength=strength), tmp_path / "cache"
        )
        [places] = data.buckets[0].photo_rows.values()
        assert len(places) == 1, "three of the four places show nothing of the subject"
        assert data.buckets[0].masks.min() == 1 - strength and data.buckets[0].masks.max() == 1
    data, _ = training_set(base, tiny_config(tiny_sd1, folder, mask_strength=0), tmp_path / "cache")
    assert data.buckets[0].masks is None


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"tag_dropout": 0.1}, "data.tag_dropout"),
        ({"mask_strength": 0.5}, "data.mask_strength"),
        ({"crop": "random"}, "data.crop"),
        ({"class_prompt": "a toy"}, "prior.class_prompt"),
        ({"prior_loss_weight": 0.5}, "prior.prior_loss_weight"),
        ({"class_count": 2, "class_images": "photos"}, "prior.class_count"),
        ({"class_images": "/nowhere"}, "prior.class_images"),
    ],
)
def test_an_option_that_would_do_nothing_here_is_refused(tmp_path, change, key):
    square = make_photos(tmp_path / "photos", 2, (80, 80))
    if change.get("class_images") == "photos":
        change = change | {"class_images": square}
    with pytest.raises(Problems) as caught:
        tiny_config("sprite", square, **change)
    assert [problem.key for problem in caught.value.problems] == [key]


def test_several_subjects_are_checked_together(tmp_path):
    photos = make_photos(tmp_path / "photos")
    tables = [
        {"images": str(photos), "class_noun": "toy", "imgs": "x"},
        {"images": "/nowhere", "class_noun": "cup"},
        {"class_noun": "dog", "trigger": "abc", "repeats": 0},
    ]
    nested = {"subjects": tables, "subject": {"class_noun": "toy"}, "prior": {"class_images": str(photos)}}
    with pytest.raises(Problems) as caught:
        settings.build(nested, checks=(check_subject,))
    found = {problem.key: problem.message for problem in caught.value.problems}
    assert set(found) == {
        "subjects[1].imgs", "subjects[3].repeats = 0", "subject.class_noun", "subjects: trigger = sks",
        "prior.class_images", "subjects[2].images", "subjects[3].images",
    }  # fmt: skip
    assert 'did you mean "images"?' in found["subjects[1].imgs"]


def test_settings_with_several_subjects_survive_toml(tmp_path, tiny_sd1):
    photos, other = make_photos(tmp_path / "a"), make_photos(tmp_path / "b")
    config = two_subjects(tiny_sd1, photos, other, class_count=3, buckets=True)
    again = settings.build(tomllib.loads(settings.to_toml(config)))
    assert again == config and [subject.repeats for subject in again.learned] == [1, 2]


def test_what_is_set_through_learned_is_set_in_the_config():
    for config in (settings.build({}), settings.build({"subjects": [{"class_noun": "cup"}]})):
        config.learned[0].template = "a {subject}"
        assert (config.subjects or [config.subject])[0].template == "a {subject}"


@pytest.mark.slow
def test_the_flags_of_data_and_prior_reach_the_run(tmp_path, tiny_sd1):
    photos = make_subject(tmp_path / "my photos é")
    result = symdream(
        "train", "--images", photos, "--class-noun", "toy", "--base", tiny_sd1, "--steps", "2", "--rank", "4",
        "--device", "cpu", "--buckets", "--flip", "--crop", "random", "--tag-dropout", "0.2", "--class-count", "2",
        "--mask-strength", "0.8", "--cache-dir", tmp_path / "cache é", "-o", tmp_path / "run",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    stored = tomllib.loads((tmp_path / "run" / "config.toml").read_text(encoding="utf-8"))
    assert stored["data"]["buckets"] and stored["prior"]["class_count"] == 2
    assert list((tmp_path / "cache é" / "class-images").glob("*/00001.png"))


def test_evaluate_scores_each_subject_and_how_much_they_bleed(tmp_path, tiny_sd1, few_denoising_steps, capsys):
    from symdream.cli import main

    one, other = make_subject(tmp_path / "one", mask=False, tags=False), make_photos(tmp_path / "other", 2, (64, 64))
    run = RunFolder.create(tmp_path / "run")
    run_training(run, two_subjects(tiny_sd1, one, other, steps=1, batch_size=1, components="unet"))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a flat icon of a {subject}\n")
    encoders = ["--dino", str(write_vit(tmp_path / "vit")), "--clip", str(write_clip(tmp_path / "clip"))]
    argv = ["evaluate", "--run", str(run.path), "--prompts", str(prompts), "--device", "cpu", *encoders]
    assert main([*argv, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert [subject["trigger"] for subject in result["subjects"]] == ["sks", "zwx"]
    classes = [subject["class_drift"] for subject in result["subjects"]]
    nouns = [subject["class_noun"] for subject in result["subjects"]]
    assert [found["images"][0]["text"] for found in classes] == [f"a flat icon of a {noun}" for noun in nouns]
    mean = sum(found["drift"] for found in classes) / 2
    assert run.read_summary()["class_drift"]["drift"] == pytest.approx(mean)
    found, everyone = result["bleeding"], range(2)
    assert all(found["bleeding"][i][i] is None and found["photos"][i][i] is not None for i in everyone)
    # DINO of a subject is its own cell, and the summary holds the mean over subjects.
    for i in everyone:
        assert found["similarity"][i][i] == pytest.approx(result["subjects"][i]["after"]["dino"], abs=1e-6)
    mean = sum(subject["after"]["dino"] for subject in result["subjects"]) / 2
    assert run.read_summary()["scores"]["after"]["dino"] == pytest.approx(mean)
    assert (run.path / "evaluation" / "subject-2" / "grid.png").is_file()
    assert main([*argv, "--overwrite"]) == 0
    assert "photos of zwx toy" in " ".join(capsys.readouterr().out.split())
