"""Score a run, an adapter file or a folder of images with DINO, CLIP-I and CLIP-T.

--run RUN draws the run's prompts with and without its adapter, from the same seeds, and scores both against its
photos; four pictures of the class without the trigger tell how far that has drifted.
--adapter FILE --reference DIR does so with an adapter file, also one of another tool. --images DIR
--reference DIR scores images made before; their prompts come from --prompts or, for images that symdream generate
wrote, from the files themselves. The rare token is left out of the texts for CLIP-T.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from symdream.errors import Problem, Problems, typed
from symdream.ui import results_console, say
from symdream.writable import not_writable

ROWS = {"before": "the base alone", "after": "with the adapter", "ceiling": "ideal pictures"}


@dataclass
class Args:
    run: Path | None = None
    """Run folder to evaluate."""
    adapter: Path | None = None
    """Adapter file or folder to evaluate, instead of a run: native, diffusers, PEFT, kohya or ComfyUI."""
    images: Path | None = None
    """Folder of images to score, instead of a run."""
    reference: Path | None = None
    """Folder with the subject's photos (with --adapter and --images)."""
    prompts: Path | None = None
    """prompts.toml, or a text file with one prompt a line in the order of the images' names."""
    trigger: str | None = None
    """Rare token to leave out of the prompts for CLIP-T (with --images; None: sks), or that the adapter answers to
    (with --adapter; None: what the file says)."""
    class_noun: str | None = None
    """What the subject is (with --adapter; None: what the file or the prompts say)."""
    base: str | None = None
    """The base to use (with --adapter; None: the one that the file names)."""
    dino: str | None = None
    """sprite, a hub id or a folder (None: sprite for its own images, else facebook/dino-vits16)."""
    clip: str | None = None
    """sprite, a hub id or a folder (None: sprite for its own images, else openai/clip-vit-base-patch32)."""
    count: int | None = None
    """Images for each prompt, twice: without and with the adapter (with --run and --adapter; None: 1)."""
    seed: int | None = None
    """First seed (with --run and --adapter; None: 0)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    cache: Path | None = None
    """Folder that keeps embeddings, and what the base draws alone, for the next time."""
    json: bool = False
    """Print JSON instead of a table."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder for the scores (None: RUN/evaluation; with --adapter: ./NAME-evaluation; with --images: only printed)."""
    overwrite: bool = False
    """Replace an evaluation that is there."""


def check(args: Args) -> None:
    """Raises: Problems, all at once."""
    problems = []
    given = [name for name in ("run", "adapter", "images") if getattr(args, name) is not None]
    if not given:
        problems.append(Problem("--run, --adapter or --images", "is needed: what to evaluate"))
    if len(given) > 1:
        problems.append(Problem(" and ".join(f"--{name}" for name in given), "do not go together: one at a time"))
    if given == ["run"]:
        for name in ("reference", "trigger"):
            if getattr(args, name) is not None:
                problems.append(Problem(f"--{name}", "does not go with --run, which knows it already"))
    elif args.reference is None and len(given) == 1:
        problems.append(Problem("--reference", "is needed: the folder with the subject's photos"))
    if given != ["adapter"]:
        for name in ("class_noun", "base"):
            if getattr(args, name) is not None:
                problems.append(Problem(f"--{name.replace('_', '-')}", "goes only with --adapter"))
    elif not args.adapter.exists():
        problems.append(Problem(f"--adapter {args.adapter}", "does not exist"))
    if given == ["images"]:
        for name in ("count", "seed"):
            if getattr(args, name) is not None:
                problems.append(Problem(f"--{name}", "does not go with --images: they are made already"))
        if args.overwrite and args.output is None:
            problems.append(Problem("--overwrite", "goes only with --output, --run or --adapter"))
    cache_problem = not_writable(args.cache, "--cache", folder=True) if args.cache else None
    problems += filter(None, [output_problem(args), cache_problem])
    for name, least in (("count", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            problems.append(Problem(f"--{name} {value}", f"must be at least {least}"))
    if problems:
        raise Problems("the request", problems)


def run(args: Args) -> int:
    check(args)
    evaluate = evaluate_the_run if args.run else evaluate_the_adapter if args.adapter else evaluate_the_folder
    result = evaluate(args)
    if args.json:
        print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


def output_problem(args: Args) -> Problem | None:
    """Why the scores cannot be written where they would be."""
    # A run is locked while it is evaluated, and its summary told the scores, wherever the rest goes.
    if args.run is not None and os.path.isdir(args.run) and (wrong := not_writable(args.run, "--run")):
        way = f"--adapter {typed(args.run)} --reference PHOTOS writes nothing there"
        return Problem(wrong.key, f"{wrong.message}; {way}")
    if args.output is not None:
        # Pictures are kept beside it until it takes its place as a whole; --images writes a file into it.
        return not_writable(args.output, whole=args.images is None)
    return not_writable(adapter_output(args), whole=True) if args.adapter is not None else None


def adapter_output(args: Args) -> Path:
    name = os.path.basename(os.path.abspath(args.adapter)).removesuffix(".safetensors")
    return Path(f"{name}-evaluation")


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
            print_class_drift(subject)
        if "bleeding" in result:
            print_bleeding(result)
        elif "subjects" not in result:
            print_table(result)
            print_class_drift(result)
    say(f"Images and scores: {args.output or args.run / 'evaluation'}")
    return result


def evaluate_the_adapter(args: Args) -> dict[str, Any]:
    from symdream.metrics.adapter_scores import evaluate_adapter
    from symdream.metrics.cache import EmbeddingCache
    from symdream.metrics.run_scores import COUNT

    output = args.output or adapter_output(args)
    result = evaluate_adapter(
        args.adapter,
        args.reference,
        output,
        base=args.base,
        trigger=args.trigger,
        class_noun=args.class_noun,
        prompts=args.prompts,
        dino=args.dino,
        clip=args.clip,
        count=COUNT if args.count is None else args.count,
        seed=args.seed or 0,
        device=args.device,
        overwrite=args.overwrite,
        cache=EmbeddingCache(args.cache),
    )
    if not args.json:
        print_table(result)
        print_class_drift(result)
    say(f"Images and scores: {output}")
    return result


def evaluate_the_folder(args: Args) -> dict[str, Any]:
    from symdream.files import write_json
    from symdream.metrics.cache import EmbeddingCache
    from symdream.metrics.folder_scores import score_folder
    from symdream.metrics.run_scores import check_output
    from symdream.training.devices import open_accelerator

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
    results_console().print(table)


def print_class_drift(result: dict[str, Any]) -> None:
    """How far pictures of the class alone have moved, whether towards the subject, and what to do about it."""
    found, noun = result["class_drift"], result["class_drift"]["class_noun"]
    pres, images = found["pres"], found["images"]
    before, after = f"{pres['before']:.3f}", f"{pres['after']:.3f}"
    print(f'any "{noun}": drift {found["drift"]:.3f} (0: unchanged)', end="; ")
    print(f"DINO to the photos (PRES) {before} before, {after} after")
    nearer = sum(image["pres_after"] > image["pres_before"] for image in images)
    told = f"{nearer} of {len(images)} pictures without the trigger look more like the subject than before."
    if nearer > len(images) / 2:
        told += " If they should not, try class images (train --class-count) or a lower weight, and measure again."
    print(told)


def print_bleeding(result: dict[str, Any]) -> None:
    """How near each subject's pictures are to each subject's photos, beside what the photos themselves are."""
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
    results_console().print(table)


def caption(scores: dict[str, Any]) -> str:
    """Which encoders measured, and what became of the rare token."""
    models = " and ".join(scores["encoders"][name]["model"] for name in ("dino", "clip"))
    trigger = scores["text"]["trigger"]
    return f"{models}" + (f'; CLIP-T without "{trigger}"' if trigger else "")
