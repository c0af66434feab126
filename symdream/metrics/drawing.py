"""The pictures that scores are about, kept while they are drawn, so that a stopped evaluation loses little.

    .NAME.drawing/KEY/NNNNN.png     beside the evaluation NAME, until that is written
    CACHE/pictures/KEY/NNNNN.png    those without an adapter, for the next one's evaluation, if a cache is asked for

KEY is a hash of all that the pictures follow from: base, adapter, prompts, seeds. What was drawn for another request is
thus never taken, and goes with the rest.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from symdream.data.store import content_key
from symdream.diffusion.base import Base
from symdream.diffusion.png import intact, save_png
from symdream.diffusion.sampling import drawn_by, sample
from symdream.errors import Stopped
from symdream.files import write_atomically
from symdream.progress import Progress
from symdream.ui import say

BATCH = 4  # pictures drawn together


class Drawing:
    """Draws for the evaluation `output`; `adapter` tells one adapter from another (a hash).

    again: the command that goes on after a stop, for the one who stopped it.
    cache: folder that keeps the pictures without the adapter.
    """

    def __init__(self, output: Path, adapter: str, again: str, cache: Path | None = None):
        place = Path(os.path.realpath(output))  # where write_folder writes it
        self.folder = place.with_name(f".{place.name}.drawing")
        self.without = self.folder if cache is None else cache / "pictures"
        self.adapter, self.again = adapter, again

    def draw(
        self, base: Base, prompts: Sequence[str], seeds: Sequence[int], *, weight: float | None, title: str
    ) -> list[Image.Image]:
        """One picture for each prompt and seed, at the base's own settings, by the base as it is now.

        weight: the adapter's, for the key alone; None where it is off. Those that are kept are read instead of drawn,
        in whole batches: so every picture is what it would have been.
        Raises: WorkError if one cannot be written; Stopped on Ctrl-C.
        """
        settings = {"negative_prompt": "", "sampler": "base", **base.defaults, "base": base.identity}
        key = content_key(
            **drawn_by(base), batch=BATCH, prompts=list(prompts), seeds=list(seeds),
            resolution=base.resolution, adapter=None if weight is None else self.adapter, weight=weight,
        )  # fmt: skip
        folder = (self.without if weight is None else self.folder) / key[:32]
        files = [folder / f"{number:05d}.png" for number in range(len(prompts))]
        there = next((number for number, file in enumerate(files) if not intact(file)), len(files))
        there = there if there == len(files) else there // BATCH * BATCH
        if there:
            say(f"{title}: {there} of {len(files)} pictures are there already, from an earlier evaluation")

        def keep(first: int, images: list[Image.Image]) -> None:
            for number, image in enumerate(images, there + first):
                about = {"prompt": prompts[number], "seed": seeds[number], "width": image.width, "height": image.height}
                write_atomically(files[number], partial(save_png, image, settings=settings | about))

        images = [Image.open(file).convert("RGB") for file in files[:there]]
        if there < len(files):
            try:
                with Progress(title, 1) as progress:
                    images += sample(
                        base, prompts[there:], seeds[there:], batch_size=BATCH, on_step=progress.on_step, on_images=keep
                    )
            except KeyboardInterrupt:
                fix = f"go on with {self.again}, and the options you gave"
                raise Stopped("Stopped; the pictures drawn so far are kept.", fix=fix) from None
        return images

    def end(self) -> None:
        """The evaluation is written: what was kept for it goes."""
        shutil.rmtree(self.folder, ignore_errors=True)
