"""Options of [data] and [prior] that cannot work, or would do nothing, with the very files they are given."""

from __future__ import annotations

from symdream.config import Data, TrainConfig
from symdream.data.captions import caption_of
from symdream.data.images import find_images, read_image
from symdream.data.masks import masks_in, read_mask
from symdream.errors import Problem, RequestError, collected


def check_class_images(config: TrainConfig) -> list[Problem]:
    """Problems with the user's class images; each is read, since many a broken one has a whole header."""
    if config.prior.class_images is None:
        return []
    try:
        images = find_images(config.prior.class_images)
    except RequestError as error:
        return [Problem("prior.class_images", error.what)]
    problems = []
    for path in images:
        with collected(problems, "prior.class_images"):
            read_image(path)
    return problems


def effects(config: TrainConfig) -> list[Problem]:
    """An option that finds nothing to act on in any photo is refused: the user believes that it acts.

    Photos and captions that cannot be read are told elsewhere and passed over here.
    """
    data = config.data
    masks_asked = data.mask_strength not in (0, Data().mask_strength)
    if not (data.tag_dropout or masks_asked or data.crop == "random"):
        return []
    tags = masks = oblong = False
    for subject in config.learned:
        words = {"trigger": subject.trigger, "class_noun": subject.class_noun or ""}
        try:
            photos = find_images(subject.images) if subject.images else []
            beside = masks_in(subject.images) if photos else {}
            for path in photos:
                tags |= "," in caption_of(path, subject.template or "{subject}", **words)
                masks |= masks_asked and read_mask(path, beside) is not None
                width, height = read_image(path).size
                oblong |= width != height
        except RequestError:
            return []
    problems = []
    if data.tag_dropout and not tags:
        problems.append(Problem("data.tag_dropout", "does nothing: no caption has a comma, so each is one tag"))
    if masks_asked and not masks:
        problems.append(Problem("data.mask_strength", "does nothing: no photo has an alpha channel or NAME_mask.png"))
    if data.crop == "random" and not oblong:  # with buckets too: one of them is square
        problems.append(Problem("data.crop", "random does nothing: every photo is square and shown whole"))
    return problems
