"""Preprocessing against the libraries that define it: torchvision's transforms and transformers' processors."""

import numpy as np
import pytest
import torch
from helpers.encoder_folders import picture
from PIL import Image
from torchvision import transforms

from symdream.metrics.preprocessing import clip_preprocessing, dino_preprocessing, sprite_preprocessing

SIZES = [(640, 480), (480, 641), (257, 300), (224, 224), (100, 90), (1000, 256), (225, 1001)]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def reference(resize: int, crop: int, mean, std):
    """The evaluation transform as facebookresearch/dino and openai/CLIP spell it."""
    return transforms.Compose(
        [
            transforms.Resize(resize, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(crop),
            transforms.ToTensor(),
            transforms.Normalize(mean, std),
        ]
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (dino_preprocessing(), reference(256, 224, IMAGENET_MEAN, IMAGENET_STD)),
        (clip_preprocessing(224), reference(224, 224, CLIP_MEAN, CLIP_STD)),
        (clip_preprocessing(336), reference(336, 336, CLIP_MEAN, CLIP_STD)),
        (sprite_preprocessing(), reference(128, 128, (0.5,) * 3, (0.5,) * 3)),
    ],
)
def test_pixels_equal_torchvisions(size, ours, theirs):
    image = picture(1, size)
    torch.testing.assert_close(ours([image])[0], theirs(image), atol=2e-6, rtol=0)


def processor(kind: str, resize: int, crop: int, mean, std):
    from transformers.models.clip.image_processing_clip import CLIPImageProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    return {"torchvision": CLIPImageProcessor, "pil": CLIPImageProcessorPil}[kind](
        size={"shortest_edge": resize},
        crop_size={"height": crop, "width": crop},
        image_mean=list(mean),
        image_std=list(std),
        resample=Image.Resampling.BICUBIC,
    )


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (300, 300)])
@pytest.mark.parametrize(("kind", "levels"), [("pil", 1e-3), ("torchvision", 2.001)])
def test_pixels_equal_transformers_processors_to_rounding(size, kind, levels):
    image = picture(2, size)
    for ours, args in (
        (dino_preprocessing(), (256, 224, IMAGENET_MEAN, IMAGENET_STD)),
        (clip_preprocessing(224), (224, 224, CLIP_MEAN, CLIP_STD)),
    ):
        theirs = torch.as_tensor(np.asarray(processor(kind, *args)(image, return_tensors="pt")["pixel_values"]))[0]
        difference = (ours([image])[0] - theirs).abs() * torch.tensor(ours.std)[:, None, None] * 255
        assert difference.max() <= levels
        assert difference.mean() <= 0.5


def test_the_embedded_encoders_see_x_over_127_5_minus_1():
    image = picture(3, (128, 128))
    expected = torch.from_numpy(np.asarray(image) / 127.5 - 1).float().permute(2, 0, 1)
    torch.testing.assert_close(sprite_preprocessing()([image])[0], expected, atol=2e-6, rtol=0)


def test_any_mode_is_read_as_rgb_and_the_description_names_every_step():
    assert clip_preprocessing(224)([picture(4).convert("L"), picture(5)]).shape == (2, 3, 224, 224)
    described = dino_preprocessing().describe()
    assert (described["resize"], described["crop"], described["interpolation"]) == (256, 224, "bicubic")
    assert described["mean"] == list(IMAGENET_MEAN)
    assert described["std"] == list(IMAGENET_STD)
