"""What of a drawn picture is the subject, where nobody knows: what differs from the picture's border.

The backgrounds of sprite's language are one or two flat tones, so the border shows all of them. A pixel belongs to
the background if its colour is near one of the border's tones and it is connected to the border through such pixels
(small islands of the subject's colour count as background too where a pattern encloses them). How well this works is
measured on composed photos, whose true masks are known: results.json tells the mean intersection over union
(`instrument.cutout_iou`). On photographs the border is no flat tone and the measure says nothing.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

SIDE = 128  # pictures are looked at in this size
BORDER = 3  # pixels
NEAR = 48.0  # Euclidean distance in RGB
LEAST, MOST = 0.04, 0.9  # parts of the picture that a subject covers; outside, the cut failed
GRAY = (128, 128, 128)


def cut_out(image: Image.Image) -> Image.Image | None:
    """The subject's mask (L, 0 or 255, of the picture's size); None if too little or too much stands out."""
    from scipy import ndimage

    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX), dtype=np.float64)
    ring = np.ones((SIDE, SIDE), dtype=bool)
    ring[BORDER:-BORDER, BORDER:-BORDER] = False
    near = np.min([np.linalg.norm(pixels - tone, axis=2) for tone in _two_tones(pixels[ring])], axis=0) < NEAR
    labels, _ = ndimage.label(near | ring, structure=np.ones((3, 3)))
    subject = ndimage.binary_fill_holes(ndimage.binary_opening(labels != labels[0, 0], iterations=1))
    labels, count = ndimage.label(subject)
    if not count:
        return None
    sizes = ndimage.sum_labels(subject, labels, range(1, count + 1))
    # The subject, and parts of it that a pattern's tone cuts off; not the pattern's own specks.
    subject = np.isin(labels, [i + 1 for i, size in enumerate(sizes) if size >= 0.1 * sizes.max()])
    if not LEAST < subject.mean() < MOST:
        return None
    return Image.fromarray((subject * 255).astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST)


def _two_tones(colours: np.ndarray) -> list[np.ndarray]:
    """The two tones (means of two clusters, from the two most distant starts) of the border's pixels (N, 3)."""
    first = np.median(colours, axis=0)
    centres = [first, colours[np.argmax(np.linalg.norm(colours - first, axis=1))]]
    for _ in range(8):
        nearest = np.argmin([np.linalg.norm(colours - centre, axis=1) for centre in centres], axis=0)
        centres = [colours[nearest == i].mean(axis=0) if (nearest == i).any() else centres[i] for i in (0, 1)]
    # A corner of the subject that touches the border is no tone of the background.
    shares = [(nearest == i).mean() for i in (0, 1)]
    return [centre for centre, share in zip(centres, shares, strict=True) if share > 0.15]


def on_gray(image: Image.Image, mask: Image.Image) -> Image.Image:
    """What the mask (L, of the picture's size) shows of it, on gray, cropped to it with a tenth of room."""
    box = mask.getbbox()
    picture = Image.new("RGB", image.size, GRAY)
    picture.paste(image.convert("RGB"), mask=mask)
    if box is None:
        return picture
    side = int(max(box[2] - box[0], box[3] - box[1]) * 1.2)
    x, y = (box[0] + box[2]) // 2, (box[1] + box[3]) // 2
    square = Image.new("RGB", (side, side), GRAY)
    square.paste(picture, (side // 2 - x, side // 2 - y))
    return square


def overlap(found: Image.Image | None, true: Image.Image) -> float:
    """Intersection over union of two masks (0 where none was found)."""
    if found is None:
        return 0.0
    a, b = (np.asarray(mask.resize((SIDE, SIDE))) > 127 for mask in (found, true))
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0
