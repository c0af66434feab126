"""Compare methods on many subjects and seeds, with intervals, statistics and a report.

symdream compare --preset smoke|sprite|dreambooth, or --config grid.toml, runs a grid: kill it and give the same
command again, and it goes on. symdream compare merge A B -o OUT joins shards, symdream compare report FOLDER writes
the report anew, symdream compare variants FOLDER scores its pictures by six readings of DINO.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional

from symdream.arguments import merge_repeated, optional_arguments
from symdream.errors import Problem, Problems, collected
from symdream.writable import not_writable

if TYPE_CHECKING:
    from symdream.bench.grid import Grid
    from symdream.bench.settings import Chosen


@dataclass
class Run:
    """Run a grid of methods × ranks × subjects × seeds."""

    preset: Literal["smoke", "sprite", "dreambooth"] | None = None
    """Grid to start from: smoke (seconds, means nothing), sprite (the embedded base), dreambooth (the public data)."""
    config: Path | None = None
    """TOML file with a grid; flags win over it."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Folder of the comparison (None: runs/compare-NAME); one that is there is gone on with."""
    methods: list[str] | None = None
    """lora, lora+, dora, singlora, symlora."""
    ranks: list[int] | None = None
    """Ranks of the methods."""
    subjects: list[str] | None = None
    """Subjects by name (default: all that are not for tuning)."""
    seeds: list[int] | None = None
    """Training seeds."""
    image_seeds: list[int] | None = None
    """Seeds that every prompt is drawn from."""
    steps: int | None = None
    """Training steps of each cell."""
    match: Literal["rank", "parameters", "both"] | None = None
    """SingLoRA and SymLoRA at LoRA's rank, at LoRA's number of parameters, or both."""
    fixed: bool = False
    """Take the rates of the table of methods instead of tuning; the report says so."""
    tune: bool = False
    """Tune, where the preset does not."""
    settings: Path | None = None
    """results.json (or its folder) of an earlier comparison, whose tuned settings are taken; what they were tuned on is
    left out."""
    tuning_only: bool = False
    """Stop after tuning, so that shards can take its --settings."""
    base: str | None = None
    """Base that is taught (see symdream base list)."""
    data: Path | None = None
    """Folder of subjects: as sample_data/, or the public DreamBooth data set."""
    dino: str | None = None
    """DINO encoder: sprite, a hub id or a folder."""
    clip: str | None = None
    """CLIP encoder, likewise."""
    device: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Where to compute."""
    processes: int = 1
    """Processes that work on cells, one thread each where there are several."""
    together: int | None = None
    """Cells of one family and rank that are trained in one loop, to rounding as alone (None: 8 on CUDA, else 1)."""
    shard: str | None = None
    """i/n: only every n-th subject and seed, from the i-th on (1/4 … 4/4), with all methods; merge the folders
    afterwards."""
    dry_run: bool = False
    """Only tell cells, images, hours on this device and disk."""


@dataclass
class Merge:
    """Join shards of one grid into one folder, and write its report."""

    folders: Positional[list[Path]]
    """Folders of the shards; one with results.json and scores.csv alone will do."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = field(default=Path("merged"))
    """Where to write the whole (may be one of them)."""


@dataclass
class Report:
    """Write the report of a comparison anew."""

    folder: Positional[Path]
    """Folder of the comparison."""


@dataclass
class Variants:
    """Score a comparison's last pictures by six readings of "DINO", to see which a paper may have used."""

    folder: Positional[Path]
    """Folder of the comparison, with its pictures."""
    dino: str | None = None
    """Another model: sprite, a hub id or a folder (None: the comparison's own)."""


ACTIONS = {"run": Run, "merge": Merge, "report": Report, "variants": Variants}


def parse(argv: list[str]) -> Run | Merge | Report | Variants:
    """The first word names what to do; without one a grid is run."""
    verb, rest = (argv[0], argv[1:]) if argv[:1] and argv[0] in ACTIONS else ("run", argv)
    description = __doc__ if verb == "run" else ACTIONS[verb].__doc__
    prog = "symdream compare" + (f" {verb}" if verb != "run" else "")
    with optional_arguments():
        return tyro.cli(
            ACTIONS[verb],
            args=merge_repeated(ACTIONS[verb], rest),
            prog=prog,
            description=description,
            config=(tyro.conf.HelptextFromCommentsOff, tyro.conf.FlagCreatePairsOff),
        )


def run(args: Run | Merge | Report | Variants) -> int:
    from symdream.bench.libraries import require_libraries

    require_libraries()  # a grid takes hours, so this is no news for its end
    return {Run: run_grid, Merge: merge, Report: report, Variants: variants}[type(args)](args)


FLAGS = {"seeds": "training_seeds"}
GIVEN = ("methods", "ranks", "subjects", "seeds", "image_seeds", "steps", "match", "base", "data", "dino", "clip",
         "device")  # fmt: skip


def read_grid(args: Run) -> Grid:
    """The checked grid of the request. Raises: Problems, or RequestError where --config cannot be read."""
    from symdream.bench.grid import build

    if args.preset is None and args.config is None:
        wrong = Problem("--preset or --config", "is needed: --preset smoke|sprite|dreambooth, or --config grid.toml")
        raise Problems("the request", [wrong])
    flags = {FLAGS.get(name, name): value for name in GIVEN if (value := getattr(args, name)) is not None}
    if args.fixed or args.tune:
        flags["tune"] = args.tune
    return build(flags, args.preset, args.config)


def read_shard(text: str | None) -> tuple[int, int]:
    """(i - 1, n) of "i/n". Raises: Problems for anything else."""
    if text is None:
        return 0, 1
    parts = text.split("/")
    if len(parts) == 2 and all(part.isdecimal() for part in parts) and 1 <= int(parts[0]) <= int(parts[1]):
        return int(parts[0]) - 1, int(parts[1])
    raise Problems("the request", [Problem(f"--shard {text}", "is not i/n, such as 1/4, 2/4, 3/4 and 4/4")])


def check_flags(args: Run, grid: Grid | None) -> list[Problem]:
    """What is wrong with the flags beside the grid; what depends on it is left out where there is none."""
    counts = {"--processes": args.processes, "--together": 1 if args.together is None else args.together}
    problems = [Problem(f"{flag} {count}", "must be at least 1") for flag, count in counts.items() if count < 1]
    if args.fixed and (args.tune or args.settings):
        problems.append(Problem("--fixed", "takes the table's rates, so --tune and --settings contradict it"))
    elif grid and args.tuning_only and (not grid.tune or args.settings):
        told = "has nothing to tune; leave --fixed and --settings out, or add --tune"
        problems.append(Problem("--tuning-only", told))
    elif grid and args.shard and grid.tune and not args.settings and not args.tuning_only:
        told = "needs --settings, or every shard would tune anew: tune once with --tuning-only, then give its folder"
        problems.append(Problem(f"--shard {args.shard}", told))
    return problems


def check(args: Run) -> tuple[Grid, Path, tuple[int, int], Chosen | None]:
    """Grid, folder, shard and given settings, before what takes seconds is loaded. Raises: Problems, all at once."""
    from symdream.bench.results import read_results
    from symdream.bench.settings import read_settings, without_tuned

    problems: list[Problem] = []
    grid = known = given = None
    with collected(problems, f"--config {args.config}"):
        grid = read_grid(args)
    with collected(problems, "--shard"):
        shard = read_shard(args.shard)
    problems += check_flags(args, grid)
    if folder := args.output or (Path("runs") / f"compare-{grid.name}" if grid else None):
        if wrong := not_writable(folder, folder=True):
            problems.append(wrong)
        else:
            with collected(problems, f"--output {folder}"):
                known = read_results(folder)
    if args.settings:
        with collected(problems, f"--settings {args.settings}"):
            given = read_settings(args.settings)
    if problems:
        raise Problems(f"the request with {args.config}" if args.config else "the request", problems)
    if given:
        finished = {cell["subject"] for cell in (known or {}).get("cells", []) if cell["status"] == "finished"}
        grid = without_tuned(grid, given, finished)
    return grid, folder, shard, given


def run_grid(args: Run) -> int:
    grid, folder, shard, given = check(args)
    from symdream.bench.runner import Comparison
    from symdream.training.processes import leave_launcher
    from symdream.ui import say

    leave_launcher()  # such as `srun symdream compare --shard …`: shards meet in `merge`, not while they train
    if args.dry_run:
        from symdream.bench.plan import plan

        print(plan(grid, folder, shard, args.processes))
        return 0
    comparison = Comparison(grid, folder, shard=shard, processes=args.processes, together=args.together)
    result = comparison.run(given, tuning_only=args.tuning_only)
    if args.tuning_only:
        print(folder / "results.json")
        return 0
    failed = [cell for cell in result["cells"] if cell["status"] == "failed"]
    missing = [cell for cell in result["cells"] if cell["status"] == "missing"]
    if failed:
        say(f"{len(failed)} of {len(result['cells'])} cells failed; the same command tries them again.")
    if missing:
        say(f"{len(missing)} cells belong to other shards.")
    return write(folder) or (1 if failed else 0)


def merge(args: Merge) -> int:
    from symdream.bench.merge import merge_folders

    merge_folders(args.folders, args.output)
    return write(args.output)


def report(args: Report) -> int:
    return write(args.folder)


def variants(args: Variants) -> int:
    import json

    from symdream.bench import grid as grids
    from symdream.bench.results import read_comparison

    content = read_comparison(args.folder)
    from symdream.bench.dino_variants import PAPER, variants_of
    from symdream.files import write_text
    from symdream.metrics.encoders import PHOTO_DINO, SPRITE, load_dino
    from symdream.ui import say

    grid = grids.check(content["grid"]["config"], str(args.folder))
    own = grid.dino or (SPRITE if content["grid"]["base"]["identity"] == SPRITE else PHOTO_DINO)
    found = variants_of(args.folder, load_dino(args.dino or own), grids.subjects_of(grid))
    names = list(next(iter(found["scores"].values())))
    width = max(map(len, found["scores"]))
    for name in names:
        print(f"{name:<28}" + "  ".join(f"{arm:>{width}} {row[name]:+.3f}" for arm, row in found["scores"].items()))
    near = ", ".join(found["near_the_paper"]) or "none"
    say(f"Within {found['within']} of the paper's {PAPER}: {near}.")
    path = args.folder / "dino-variants.json"
    write_text(path, json.dumps(found, indent=1) + "\n")
    print(path)
    return 0


def write(folder: Path) -> int:
    """The statistics and the report of what is known in `folder`."""
    from symdream.bench.merge import analyse_folder
    from symdream.bench.report import write_report

    print(write_report(folder, analyse_folder(folder)))
    return 0
