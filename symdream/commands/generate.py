"""Make images with a trained adapter.

Each image is a PNG that carries its settings, written as soon as it is made; a labelled grid of all of them is written
beside them. Seeds S, S+1, … are used for every prompt, so that columns can be compared.
Several adapters, with a weight each, are on at once: their updates add up. {subject} is then the first one's that tells
its words; write the others' triggers into the prompt. --sweep draws the same seeds at several weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from symdream.diffusion.limits import MAX_SEED, Sampler, wrong_settings
from symdream.errors import Problem, Problems, RequestError, Stopped
from symdream.ui import say
from symdream.writable import not_writable

if TYPE_CHECKING:
    from PIL import Image

GRID_NAME = "grid.png"


@dataclass
class Args:
    adapter: list[Path]
    """Run folder, adapter folder, or adapter file (.safetensors); one or more, on at once."""
    prompt: list[str]
    """One or more prompts; {subject} becomes the (first) adapter's trigger and class noun."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("images")
    """Folder for the images."""
    seed: int = 0
    """First seed."""
    count: int = 4
    """Images for each prompt."""
    weight: list[float] = field(default_factory=list)
    """Strength of each adapter, or one for all: 0 is the base alone, 1 as trained (none: what training found best).
    Between, a DoRA's low-rank part is scaled and its magnitudes stay as trained."""
    sweep: list[float] = field(default_factory=list)
    """Several weights instead of one: every prompt and seed at each of them, side by side in grid.png."""
    negative_prompt: str = ""
    """What the images should not show; {subject} is filled in here, too."""
    steps: int | None = None
    """Denoising steps (None: the base's)."""
    guidance: float | None = None
    """Classifier-free guidance scale (None: the base's; 1: none)."""
    sampler: Sampler = "base"
    """How noise becomes a picture."""
    width: int | None = None
    """Pixels (None: the base's)."""
    height: int | None = None
    """Pixels (None: the base's)."""
    base: str | None = None
    """The base to use (None: the one the adapter was trained on)."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the base."""
    batch_size: int = 4
    """Images made together."""
    overwrite: bool = field(default=False)
    """Replace the images that symdream made in this folder; others stay."""


def check(args: Args) -> None:
    """Raises: Problems, all at once."""
    from symdream.data.captions import prompt_problem

    problems = []
    for name, least in (("count", 1), ("batch_size", 1), ("seed", 0)):
        if getattr(args, name) < least:
            problems.append(Problem(f"--{name.replace('_', '-')} {getattr(args, name)}", f"must be at least {least}"))
    if args.seed + args.count - 1 > MAX_SEED:
        problems.append(Problem(f"--seed {args.seed}", f"must be at most {MAX_SEED}, the last image's too"))
    for name, message in wrong_settings(args.steps, args.guidance, args.width, args.height).items():
        problems.append(Problem(f"--{name} {getattr(args, name)}", message))
    for flag, weights in (("--weight", args.weight), ("--sweep", args.sweep)):
        problems += [Problem(f"{flag} {weight}", "must be a number") for weight in weights if not math.isfinite(weight)]
    if len(args.weight) not in (0, 1, len(args.adapter)):
        many = f"{len(args.weight)} weights for {len(args.adapter)} adapter{'s' * (len(args.adapter) != 1)}"
        told = f"{many}: give one for all, or one for each; --sweep draws at several in turn"
        problems.append(Problem(f"--weight {in_words(args.weight)}", told))
    if args.weight and args.sweep:
        problems.append(Problem("--weight and --sweep", "do not go together: --sweep sets the weight of all adapters"))
    if len(set(sweep_names(args))) < len(args.sweep):
        problems.append(Problem(f"--sweep {in_words(args.sweep)}", "holds a weight twice"))
    problems += [Problem("--prompt", "is empty") for p in args.prompt if not p.strip()]
    problems += [Problem("--prompt", wrong) for p in args.prompt if (wrong := prompt_problem(p))]
    if wrong := prompt_problem(args.negative_prompt):
        problems.append(Problem("--negative-prompt", wrong))
    if not args.adapter:
        problems.append(Problem("--adapter", "is needed: a run folder, an adapter folder or an adapter file"))
    problems += [Problem(f"--adapter {path}", "does not exist") for path in args.adapter if not path.exists()]
    if args.output.exists() and not args.output.is_dir():
        problems.append(Problem(f"--output {args.output}", "is a file"))
    elif wrong := in_the_way(args) or not_writable(args.output):
        problems.append(wrong)
    if problems:
        raise Problems("the request", problems)


def in_the_way(args: Args) -> Problem | None:
    """What of the output folder forbids to write there: symdream's own pictures, unless they are to be replaced, and
    anyone else's, or a folder, under a name that is to be written."""
    from symdream.diffusion.png import is_ours

    pictures, grid = picture_paths(args), args.output / GRID_NAME
    for path in (*pictures, grid):
        if path.is_dir():
            return Problem(f"--output {args.output}", f"holds a folder {path.name}; choose another, or move that one")
    ours = {path for path in args.output.glob("*.png") if is_ours(path)}
    # Beside pictures of ours a grid is ours as well: it had no mark of its own once.
    names = [*pictures, *([] if ours else [grid])]
    if foreign := [path for path in names if path.is_file() and path not in ours]:
        return Problem(
            f"--output {args.output}",
            f"holds a {foreign[0].name} that symdream did not make; choose another, or move that file",
        )
    if ours and not args.overwrite:
        return Problem(f"--output {args.output}", "holds images already; choose another, or add --overwrite")
    return None


def in_words(weights: Iterable[float]) -> str:
    """As they are typed: "0.5 1"."""
    return " ".join(f"{weight:g}" for weight in weights)


def sweep_names(args: Args) -> list[str]:
    """What tells the pictures of one weight of a sweep from those of another, in their names."""
    return [f"-w{weight:g}" for weight in args.sweep]


def picture_paths(args: Args) -> list[Path]:
    """Where the pictures go: prompt by prompt, each with its seeds; with a sweep all of these weight by weight."""
    return [
        args.output / f"{i:02d}-{args.seed + j}{end}.png"
        for end in sweep_names(args) or [""]
        for i in range(len(args.prompt))
        for j in range(args.count)
    ]


def run(args: Args) -> int:
    check(args)
    from symdream.diffusion.adapters import set_weight
    from symdream.diffusion.grid import save_grid
    from symdream.diffusion.png import is_ours, save_png
    from symdream.diffusion.sampling import sample
    from symdream.files import write_atomically
    from symdream.interop.open import open_adapters
    from symdream.progress import Progress
    from symdream.training.devices import open_accelerator

    accelerator, dtype = open_accelerator(args.device, args.dtype)
    names = [f"adapter{place}" for place in range(len(args.adapter))]
    by_name = dict(zip(names, args.adapter, strict=True))
    base, metadata = open_adapters(by_name, base=args.base, device=accelerator.device, dtype=dtype)
    guidance = base.defaults["guidance"] if args.guidance is None else args.guidance
    prompts, negative_prompt = filled(args, metadata, base.tokenizer, guidance)
    seeds = [args.seed + i for i in range(args.count)]
    asked = [(prompt, seed) for prompt in prompts for seed in seeds]
    columns = [[weight] * len(names) for weight in args.sweep] or [weights_of(args, metadata)]
    paths = picture_paths(args)
    old = {path for path in args.output.glob("*.png") if is_ours(path)}
    grid = args.output / GRID_NAME
    before = {path: path.stat().st_ino for path in paths if path.exists()}
    made: list[list[Image.Image]] = []  # by column

    def keep(first: int, images: list[Image.Image]) -> None:
        """Each picture as soon as it is made: what comes later may fail or be stopped."""
        grid.unlink(missing_ok=True)  # it would show what is no longer there
        for place, image in enumerate(images, first):
            settings = {
                "prompt": asked[place][0],
                "negative_prompt": negative_prompt,
                "seed": asked[place][1],
                "steps": args.steps or base.defaults["steps"],
                "guidance": guidance,
                "sampler": args.sampler,
                "width": image.width,
                "height": image.height,
                "base": base.identity,
                **adapter_settings(args.adapter, columns[len(made)]),
            }
            path = paths[len(made) * len(asked) + place]
            write_atomically(path, partial(save_png, image, settings=settings))

    try:
        for weights in columns:
            for name, weight in zip(names, weights, strict=True):
                set_weight(base, weight, name)
            title = f"denoising at weight {weights[0]:g}" if args.sweep else "denoising"
            with Progress(title, 1) as progress:
                images = sample(
                    base,
                    [prompt for prompt, _ in asked],
                    [seed for _, seed in asked],
                    steps=args.steps,
                    guidance=guidance,
                    negative_prompt=negative_prompt,
                    sampler=args.sampler,
                    width=args.width,
                    height=args.height,
                    batch_size=args.batch_size,
                    on_step=progress.on_step,
                    on_images=keep,
                )
            made.append(images)
    except KeyboardInterrupt:
        # Counted on the disk: Ctrl-C can come between a picture's writing and its counting.
        kept = sum(path.exists() and path.stat().st_ino != before.get(path) for path in paths)
        where = f" They are in {args.output}." if kept else ""
        raise Stopped(f"Stopped with {kept} of {len(paths)} images made.{where}") from None
    for path in old - set(paths):
        path.unlink(missing_ok=True)
    if args.sweep:
        rows = [list(row) for row in zip(*made, strict=True)]
        labels = {
            "row_labels": [f"{prompt}, seed {seed}" for prompt, seed in asked],
            "column_labels": [f"weight {weight:g}" for weight in args.sweep],
        }
    else:
        [images] = made
        rows = [images[i * args.count : (i + 1) * args.count] for i in range(len(prompts))]
        labels = {"row_labels": prompts, "column_labels": [f"seed {s}" for s in seeds]}
    save_grid(grid, rows, **labels)
    for path in (*paths, grid):  # last, since whoever reads them may be gone
        print(path)
    return 0


def weights_of(args: Args, metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """The weight of each adapter: as given, or what its training found best, which is told."""
    from symdream.interop.metadata import recommended_weight

    if args.weight:
        return args.weight * len(args.adapter) if len(args.weight) == 1 else args.weight
    weights = [recommended_weight(told) for told in metadata]
    for path, weight in zip(args.adapter, weights, strict=True):
        if weight != 1:
            whose = "The adapter's weight" if len(weights) == 1 else f"The weight of {path.name}"
            say(f"{whose} is {weight:g}, which its training found best; --weight sets another.")
    return weights


def adapter_settings(paths: Sequence[Path], weights: Sequence[float]) -> dict[str, Any]:
    """What a picture's file says of its adapters: one and its weight, or `adapters` as the app writes them."""
    if len(paths) == 1:
        return {"adapter": paths[0].name, "weight": weights[0]}
    return {"adapters": [{"name": p.name, "weight": w} for p, w in zip(paths, weights, strict=True)]}


def filled(args: Args, metadata: Sequence[Mapping[str, Any]], tokenizer: Any, guidance: float) -> tuple[list[str], str]:
    """The prompts and the negative prompt with {subject} filled in, by the first adapter that tells its words; what
    they lack or lose, and a negative prompt without effect, is told.

    Raises: RequestError if {subject} is asked for and nobody knows its words.
    """
    from symdream.data.captions import fill, says, shared_triggers
    from symdream.diffusion.prompts import cut_off, ineffective

    known = [told for told in metadata if told.get("trigger")]
    words = {key: known[0].get(key) or "" if known else "" for key in ("trigger", "class_noun")}
    texts = []
    for text in (*args.prompt, args.negative_prompt):
        if "{subject}" in text and not known:
            who = f"{args.adapter[0]} does not say" if len(args.adapter) == 1 else "None of these adapters says"
            raise RequestError(
                f"{who} which words stand for its subject, so {{subject}} cannot be filled in.",
                fix="write the trigger into the prompt yourself",
            )
        texts.append(fill(text, **words))
    *prompts, negative = texts
    of_each = zip(args.adapter, metadata, strict=True)
    for note in shared_triggers((path.name, told.get("trigger") or "") for path, told in of_each):
        say(f"note: {note}")
    for prompt in prompts:
        for path, told in zip(args.adapter, metadata, strict=True):
            if (trigger := told.get("trigger")) and not says(prompt, trigger):
                whose = "the subject" if len(metadata) == 1 else f"the subject of {path.name}"
                say(f'note: "{prompt}" lacks the trigger; {whose} answers to "{trigger} {told.get("class_noun")}".')
        if lost := cut_off(tokenizer, prompt):
            say(f'note: the prompt is longer than the text encoder reads; cut off: "{lost}"')
    if lost := cut_off(tokenizer, negative):
        say(f'note: the negative prompt is longer than the text encoder reads; cut off: "{lost}"')
    if note := ineffective(negative, guidance):
        say(f"note: {note}")
    return prompts, negative
