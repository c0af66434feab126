"""How long scoring takes, and what a grid costs above its runs.

    python benchmarks/scoring.py                    1,000 pictures by the embedded encoders; prints a table
    python benchmarks/scoring.py --grid             also two cells of the sprite preset, and what passes outside of them

The overhead of a whole preset is told as (what passed once, outside of cells and references + writing its full
results.json and scores.csv after every cell) / (its cells at the seconds that the two took). Both are of one process,
so that a busy machine slows them alike.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import symdream.quiet  # noqa: F401
from symdream.bench.grid import build, subjects_of
from symdream.bench.judging import Judge
from symdream.bench.results import read_results, read_rows, write_results, write_rows
from symdream.bench.runner import Comparison
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.encoders import load_clip, load_dino
from symdream.metrics.evaluate import score_images

PRESET_CELLS = 196


def pictures(count: int) -> tuple[list[Image.Image], list[str], list[Image.Image]]:
    """Different pictures with their prompts, as adapters draw them: the photos and ideals of fox, a little lighter."""
    fox = subjects_of(build({}, "sprite"))["fox"]
    photos = list(fox.photos().values())
    shown = [np.asarray(photo.convert("RGB"), dtype=np.int16) for photo in photos]
    images = [
        Image.fromarray(np.clip(shown[i % len(shown)] + 1 + i // len(shown) % 64, 0, 255).astype(np.uint8).copy())
        for i in range(count)
    ]
    for i, image in enumerate(images):  # no two alike: embeddings are kept by content
        image.putpixel((i % image.width, i // image.width % image.height), (i % 251, i // 251, 7))
    return images, [fox.prompts[i % len(fox.prompts)] for i in range(count)], photos


def timed(work) -> tuple[float, float]:
    """Seconds on the clock, and of the processor, which other work on the machine hardly changes."""
    began, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - cpu


def score(count: int) -> list[tuple[str, float, float]]:
    images, prompts, photos = pictures(count)
    dino, clip = load_dino("sprite"), load_clip("sprite")
    texts = [prompt.replace("{subject}", "animal") for prompt in prompts]
    plain = timed(lambda: score_images(images, texts, photos, dino=dino, clip=clip, cache=EmbeddingCache()))
    judge = Judge(dino, clip, EmbeddingCache()).of(subjects_of(build({}, "sprite"))["fox"])
    whole = timed(lambda: judge.rows(images, prompts, [0] * count))
    return [
        (f"{count:,} pictures: DINO, CLIP-I, CLIP-T, nearest photo", *plain),
        ("the same, with foreground and matched scores", *whole),
    ]


def grid(steps: int) -> list[tuple[str, float]]:
    """Two cells of `steps` steps in a grid of their own, and what it costs above them."""
    flags = {"methods": ["lora", "singlora"], "match": "rank", "subjects": ["fox"], "training_seeds": [0],
             "steps": steps, "tune": False}  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "grid"
        comparison = Comparison(build(flags, "sprite"), folder)
        began = time.perf_counter()
        content = comparison.run()
        outside = time.perf_counter() - began - comparison.worked
        cell = sum(c["seconds"] for c in content["cells"]) / len(content["cells"])
        content, rows = read_results(folder), read_rows(folder)
        cells = [c for c in content["cells"] for _ in range(PRESET_CELLS // 2)]
        # Spectra are kept of the first of two training seeds.
        cells = [c | {"spectrum": c["spectrum"] if i % 2 else []} for i, c in enumerate(cells)]
        rows = [row for row in rows for _ in range(PRESET_CELLS // 2)]
        began = time.perf_counter()
        write_results(folder, content | {"cells": cells})
        write_rows(folder, rows)
        writing = time.perf_counter() - began
    overhead = (outside + PRESET_CELLS * writing) / (outside + PRESET_CELLS * (cell + writing))
    return [
        (f"a cell of {steps} steps and its pictures", cell),
        ("once, outside of cells and references", outside),
        (f"writing what is known of {PRESET_CELLS} cells", writing),
        (f"overhead of {PRESET_CELLS} such cells, %", 100 * overhead),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--grid", action="store_true")
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args()
    print("| what | seconds | seconds of the processor |\n|---|---|---|")
    for what, seconds, cpu in score(args.images):
        print(f"| {what} | {seconds:.2f} | {cpu:.2f} |", flush=True)
    for what, seconds in grid(args.steps) if args.grid else []:
        print(f"| {what} | {seconds:.2f} | |", flush=True)


if __name__ == "__main__":
    main()
