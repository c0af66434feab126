"""Score a run, or a folder of images, with DINO, CLIP-I and CLIP-T.

--run RUN draws the run's prompts with and without its adapter, from the same seeds, and scores both against its
photos. --images DIR --reference DIR scores images made before; their prompts come from --prompts or, for images that
symdream generate wrote, from the files themselves. The rare token is left out of the texts for CLIP-T.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from symdream.errors import Problem, Problems
from symdream.ui import say

ROWS = {"before": "the base alone", "after": "with the adapter", "ceiling": "ideal pictures"}


@dataclass
class Args:
    run: Path | None = None
    """Run folder to evaluate."""
    images: Path | None = None
    """Folder of images to score, instead of a run."""
    reference: Path | None = None
    """Folder with the subject's photos (with --images)."""
    prompts: Path | None = None
    """prompts.toml, or a text file with one prompt a line in the order of the images' names."""
    trigger: str | None = None
    """Rare token to leave out of the prompts for CLIP-T (with --images; None: sks)."""
    dino: str | None = None
    """sprite, a hub id or a folder (None: sprite for its own images, else facebook/dino-vits16)."""
    clip: str | None = None
    """sprite, a hub id or a folder (None: sprite for its own images, else openai/clip-vit-base-patch32)."""
    count: int | None = None
    """Images for each prompt, twice: without and with the adapter (with --run; None: 1)."""
    seed: int | None = None
    """First seed (with --run; None: 0)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    cache: Path | None = None
    """Folder that keeps embeddings for the next time."""
    json: bool = False
    """Print JSON instead of a table."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the scores (None: RUN/evaluation; with --images: only printed)."""
    overwrite: bool = False
    """Replace an evaluation that is there."""


def check(args: Args) -> None:
    """Raises: Problems, all at once."""
    problems = []
    if args.run is None and args.images is None:
        problems.append(Problem("--run or --images", "is needed: a run folder, or images with --reference photos"))
    if args.run is not None:
        for name in ("images", "reference", "trigger"):
            if getattr(args, name) is not None:
                problems.append(Problem(f"--{name}", "does not go with --run, which knows it already"))
    elif args.images is not None:
        if args.reference is None:
            problems.append(Problem("--reference", "is needed: the folder with the subject's photos"))
        for name in ("count", "seed"):
            if getattr(args, name) is not None:
                problems.append(Problem(f"--{name}", "goes only with --run: --images are made already"))
        if args.overwrite and args.output is None:
            problems.append(Problem("--overwrite", "goes only with --output or --run"))
    for name, least in (("count", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            problems.append(Problem(f"--{name} {value}", f"must be at least {least}"))
    if problems:
        raise Problems("the request", problems)


def run(args: Args) -> int:
    check(args)
    result = evaluate_the_run(args) if args.run else evaluate_the_folder(args)
    if args.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


def evaluate_the_run(args: Args) -> dict[str, Any]:
    from symdream.metrics.cache import EmbeddingCache
    from symdream.metrics.run_scores import COUNT, evaluate_run
    from symdream.training.run_folder import RunFolder

    folder = RunFolder.open(args.run)
    folder.acquire()  # neither a training nor a second evaluation may change the run meanwhile
    try:
        result = evaluate_run(
            folder,
            dino=args.dino,
            clip=args.clip,
            prompts=args.prompts,
            count=COUNT if args.count is None else args.count,
            seed=args.seed or 0,
            device=args.device,
            output=args.output,
            overwrite=args.overwrite,
            cache=EmbeddingCache(args.cache),
        )
    finally:
        folder.release()
    if not args.json:
        for subject in result.get("subjects", []):
            print(f"{subject['trigger']} {subject['class_noun']}")
            print_table(subject)
        if "bleeding" in result:
            print_bleeding(result)
        elif "subjects" not in result:
            print_table(result)
    say(f"Images and scores: {args.output or args.run / 'evaluation'}")
    return result


def evaluate_the_folder(args: Args) -> dict[str, Any]:
    from symdream.metrics.cache import EmbeddingCache
    from symdream.metrics.folder_scores import score_folder
    from symdream.metrics.run_scores import check_output
    from symdream.training.devices import open_accelerator
    from symdream.training.run_folder import write_json

    if args.output is not None:
        check_output(args.output, args.overwrite)
    accelerator, _ = open_accelerator(args.device, "auto")
    result = score_folder(
        args.images,
        args.reference,
        prompts=args.prompts,
        trigger=args.trigger,
        dino=args.dino,
        clip=args.clip,
        device=accelerator.device,
        cache=EmbeddingCache(args.cache),
    )
    if args.output is not None:
        write_json(args.output / "scores.json", result)
        say(f"Scores: {args.output / 'scores.json'}")
    if not args.json:
        print_table({"images": result})
    return result


def print_table(results: dict[str, Any]) -> None:
    """DINO, CLIP-I and CLIP-T of each row, and what the photos score among themselves, on stdout."""
    from rich.console import Console
    from rich.table import Table

    rows = {name: results[name] for name in ("images", *ROWS) if name in results}
    last = list(rows.values())[-1]
    table = Table(caption=caption(last))
    table.add_column("")
    for column in ("DINO", "CLIP-I", "CLIP-T", "images"):
        table.add_column(column, justify="right")
    for name, scores in rows.items():
        numbers = [f"{scores[key]:.3f}" for key in ("dino", "clip_i", "clip_t")]
        table.add_row(ROWS.get(name, name), *numbers, str(scores["pairs"]["clip_t"]))
    real = last["real_vs_real"]
    if real["dino"] is not None:
        count = round(last["pairs"]["dino"] / last["pairs"]["clip_t"])
        table.add_row("photos among themselves", f"{real['dino']:.3f}", f"{real['clip_i']:.3f}", "", str(count))
    Console().print(table)


def print_bleeding(result: dict[str, Any]) -> None:
    """How near each subject's pictures are to each subject's photos, beside what the photos themselves are."""
    from rich.console import Console
    from rich.table import Table

    found = result["bleeding"]
    names = [f"{subject['trigger']} {subject['class_noun']}" for subject in result["subjects"]]
    table = Table(caption="DINO; in brackets, what the row's own photos score, and the difference: + is bleeding")
    table.add_column("pictures of")
    for name in names:
        table.add_column(f"photos of {name}", justify="right")
    for i, name in enumerate(names):
        cells = []
        for j, value in enumerate(found["similarity"][i]):
            more = "" if i == j else f" ({found['photos'][i][j]:.3f}, {found['bleeding'][i][j]:+.3f})"
            cells.append(f"{value:.3f}{more}")
        table.add_row(name, *cells)
    Console().print(table)


def caption(scores: dict[str, Any]) -> str:
    """Which encoders measured, and what became of the rare token."""
    models = " and ".join(scores["encoders"][name]["model"] for name in ("dino", "clip"))
    trigger = scores["text"]["trigger"]
    return f"{models}" + (f'; CLIP-T without "{trigger}"' if trigger else "")
