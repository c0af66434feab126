"""Does "a bird" stay a bird? The same subject learned with and without prior preservation, on the embedded base.

    python benchmarks/prior_preservation.py -o runs/prior

Trains with equal settings without class images, and with class images that the base drew, once for each --weights
(prior_loss_weight), all from each of the --training-seeds. Then draws class prompts (no trigger) with the base and with
all adapters from the same seeds, which are none of the class images', and measures drift = mean of
1 - cos(DINO(base), DINO(adapted)); and the subject's DINO on its held-out prompts. Writes results.json after every run
and prior_preservation.webp (of the first training seed), and with --docs DIR the page DIR/prior_preservation.md with
the picture in DIR/img. Some 3 minutes a run on two idle cores.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

import symdream.quiet  # noqa: F401
from symdream import settings
from symdream.data.captions import fill
from symdream.data.images import find_images, read_folder
from symdream.diffusion.adapters import Disabled
from symdream.diffusion.grid import make_grid
from symdream.diffusion.sampling import sample
from symdream.files import write_json
from symdream.metrics.encoders import load_dino
from symdream.metrics.prompts import read_prompts
from symdream.metrics.scores import dino_score, drift, paired_cosines
from symdream.training.request import check_subject
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training
from symdream.tuners import METHODS

SUBJECT = Path(__file__).parent.parent / "sample_data" / "owl"
PICTURE = "prior_preservation.webp"
CLASS_PROMPTS = [
    "a 3d render of a {}",
    "a 3d render of a {} on a blue background",
    "a 3d render of a {} on a dotted yellow background",
    "a glossy icon of a {}",
    "a flat icon of a {} on a green background",
    "a cartoon emoji of a {}",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subject", type=Path, default=SUBJECT, help="folder with photos and prompts.toml")
    parser.add_argument("--method", default="singlora", choices=METHODS)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--class-count", type=int, default=32)
    parser.add_argument("--weights", nargs="+", type=float, default=[1.0], help="the prior_loss_weight of each run")
    parser.add_argument("--training-seeds", nargs="+", type=int, default=[0], help="of every run")
    parser.add_argument("--seeds", type=int, default=3, help="pictures of each class prompt and of each held-out one")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of both runs")
    parser.add_argument("--docs", type=Path, help="folder in which to write the page")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    if not (args.subject / "prompts.toml").is_file():
        parser.error(f"--subject: {args.subject} has no prompts.toml")

    others = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in args.set)}
    asked = read_prompts(args.subject / "prompts.toml")
    noun = asked.class_noun
    class_prompts = [prompt.format(noun) for prompt in CLASS_PROMPTS for _ in range(args.seeds)]
    seeds = [seed for _ in CLASS_PROMPTS for seed in range(args.seeds)]
    held_out = [fill(p.text, trigger="sks", class_noun=noun) for p in asked.held_out().prompts]
    subject_prompts = [prompt for prompt in held_out for _ in range(args.seeds)]
    subject_seeds = [seed for _ in held_out for seed in range(args.seeds)]
    dino = load_dino("sprite", device="cpu")
    photos = dino.images(list(read_folder(args.subject).images.values()))

    rows: dict[str, list] = {}
    runs: dict[str, list[dict[str, Any]]] = {}
    given = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("output", "docs")}
    results: dict[str, Any] = {"settings": given, "runs": runs}
    trials = {"without": {}} | {
        f"weight {w:g}": {"class_count": args.class_count, "prior_loss_weight": w} for w in args.weights
    }
    for training_seed, (name, options) in itertools.product(args.training_seeds, trials.items()):
        flags = {"images": args.subject, "class_noun": noun, "method": args.method, "steps": args.steps,
                 "batch_size": args.batch_size, "seed": training_seed, "device": "cpu", "tensorboard": False,
                 **others, **options}  # fmt: skip
        run = RunFolder.create(args.output / f"{name}, seed {training_seed}", overwrite=True)
        base = run_training(run, settings.build(settings.merge({}, flags), checks=(check_subject,)))
        if "base" not in rows:
            with Disabled(base):
                rows["base"] = sample(base, class_prompts, seeds)
            base_embedded = dino.images(rows["base"])
            results["base"] = {"class_to_photos": dino_score(base_embedded, photos)}
        of_class, of_subject = sample(base, class_prompts, seeds), sample(base, subject_prompts, subject_seeds)
        rows.setdefault(name, of_class)
        rows.setdefault(f"{name} subject", of_subject)
        moved = dino.images(of_class)
        likeness = (dino.images(of_subject) @ photos.T).mean(1).tolist()
        runs.setdefault(name, []).append(
            {
                "training_seed": training_seed,
                "drift": drift(base_embedded, moved),
                "class_to_photos": dino_score(moved, photos),
                "subject_dino": statistics.mean(likeness),
                "subject_dino_of_each": likeness,
                "seconds_per_step": run.read_summary()["seconds_per_step"],
                "drift_of_each": (1 - paired_cosines(base_embedded, moved)).tolist(),
            }
        )
        write_json(args.output / "results.json", results)
    shown = slice(0, None, args.seeds)
    names = list(map(label, trials))
    picture(
        noun,
        (class_prompts[shown], ["the base", *names], [rows[name][shown] for name in ("base", *trials)]),
        (subject_prompts[shown], names, [rows[f"{name} subject"][shown] for name in trials]),
    ).save(args.output / PICTURE)
    if args.docs:
        write_page(args.docs, results, args)
    print(table(results))


Part = tuple[Sequence[str], Sequence[str], Sequence[Sequence[Image.Image]]]


def picture(noun: str, of_class: Part, of_subject: Part) -> Image.Image:
    """Two grids, one above the other; each: its prompts, the names of its rows, its rows."""
    titles = (f'"{noun}" before and after learning "sks {noun}"', f'"sks {noun}" on held-out prompts')
    grids = [
        make_grid(rows, column_labels=prompts, row_labels=names, title=title)
        for title, (prompts, names, rows) in zip(titles, (of_class, of_subject), strict=True)
    ]
    canvas = Image.new("RGB", (max(grid.width for grid in grids), sum(grid.height for grid in grids)), "white")
    top = 0
    for grid in grids:
        canvas.paste(grid, (canvas.width - grid.width, top))
        top += grid.height
    return canvas


def over(values: list[float], sign: str = "") -> str:
    """The mean, and where there are several, the least and the greatest of them."""
    mean = f"{statistics.mean(values):{sign}.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):{sign}.3f} to {max(values):{sign}.3f})"


def label(name: str) -> str:
    return "without class images" if name == "without" else f"with class images, {name}"


PAGE = """# "A {noun}" stays a {noun}: prior preservation

Learning "sks {noun}" from {photos} photos teaches the base something about every {noun}. Prior preservation
(`--class-count N`, DreamBooth, arXiv:2208.12242, section 3.2) trains on pictures of the class beside the photos, drawn
once by the base and kept in the cache, so that the class stays what it was.

![class prompts on the base and on the adapters](img/prior_preservation.webp)

{method}, {steps} steps, batch {batch}; means over {runs} training seeds, with the least and the greatest:

{table}

Drift is 1 - cos between DINO's embeddings of the base's and the adapted model's picture of the same class prompt and
seed, over {pictures} pictures a run; 0 means that nothing changed. The seeds are none of the class images'. The change
of the subject is against the run of the same training seed without class images. With class images ({count} of them) a
step sees twice as many pictures, which is its price.

    {command}
"""

COLUMNS = [
    "", "drift of the class", "class pictures to the photos (DINO)", "subject (DINO)", "change of the subject", "s/step"
]  # fmt: skip
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|\n"


def table(results: dict[str, Any]) -> str:
    alone = [run["subject_dino"] for run in results["runs"]["without"]]
    lines = [f"| the base | 0 | {results['base']['class_to_photos']:.3f} | | | |"]
    for name, runs in results["runs"].items():
        change = over([run["subject_dino"] - old for run, old in zip(runs, alone, strict=True)], sign="+")
        cells = [label(name), over([run["drift"] for run in runs]), over([run["class_to_photos"] for run in runs]),
                 over([run["subject_dino"] for run in runs]), "" if name == "without" else change,
                 f"{statistics.mean(run['seconds_per_step'] for run in runs):.2f}"]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return HEAD + "\n".join(lines)


def write_page(docs: Path, results: dict[str, Any], args: argparse.Namespace) -> None:
    asked = read_prompts(args.subject / "prompts.toml")
    page = PAGE.format(
        noun=asked.class_noun, photos=len(find_images(args.subject)), method=args.method, steps=args.steps,
        batch=args.batch_size, runs=len(args.training_seeds), count=args.class_count,
        pictures=len(results["runs"]["without"][0]["drift_of_each"]), table=table(results),
        command=shlex.join(["python", *sys.argv]),
    )  # fmt: skip
    (docs / "img").mkdir(parents=True, exist_ok=True)
    (docs / "prior_preservation.md").write_text(page, encoding="utf-8")
    shutil.copy(args.output / PICTURE, docs / "img" / PICTURE)


if __name__ == "__main__":
    main()
