"""Try learning rates of each method on sprite's two tuning subjects; docs/tuning.md is made from this.

    python benchmarks/tune.py -o tune.jsonl                        the whole grid, resumed where it stopped
    python benchmarks/tune.py -o tune.jsonl --methods singlora --ranks 16 --rates 1e-3 2e-3
    python benchmarks/tune.py -o quality.jsonl --defaults --seeds 0 1     each method at its default rates

Every cell is an ordinary training run with all other settings at their defaults. It is judged on the subject's
selection prompts (held_out = false in prompts.toml), never on those that reports use: DINO against the photos, and
CLIP-T. One line of JSON a cell.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from pathlib import Path

import symdream.quiet  # noqa: F401
from symdream import settings
from symdream.data.captions import fill
from symdream.data.images import read_folder
from symdream.diffusion.adapters import Disabled
from symdream.diffusion.sampling import sample
from symdream.metrics.encoders import load_clip, load_dino
from symdream.metrics.evaluate import score_images
from symdream.metrics.prompts import read_prompts
from symdream.training.run_folder import RunFolder
from symdream.training.session import run_training
from symdream.tuners import METHODS

SAMPLES = Path(__file__).parent.parent / "sample_data"
SAMPLING = {"sampler": "dpm++", "steps": 15}
RATES = {  # half a decade apart, each method's default among them
    "lora": [6.3e-4, 2e-3, 6.3e-3],
    "lora+": [3e-4, 9.5e-4, 3e-3],
    "dora": [6.3e-4, 2e-3, 6.3e-3],
    "singlora": [6.3e-4, 2e-3, 6.3e-3],
    "symlora": [3e-3, 9.5e-3, 3e-2],
}


def name_of(cell: dict) -> str:
    words = [cell["method"], f"r{cell['rank']}", f"{cell['lr']:g}", cell["subject"], f"seed{cell['seed']}"]
    return "-".join(words + [f"{k}={v}" for k, v in cell["options"].items()])


def try_cell(cell: dict, images_per_prompt: int, dino, clip, before: dict, keep: Path | None) -> dict:
    """Train and score one cell; `before` keeps the base's own scores by subject, `keep` the run folders."""
    folder = SAMPLES / cell["subject"]
    asked = read_prompts(folder / "prompts.toml")
    prompts = [p.text for p in asked.prompts if not p.held_out]
    flags = {k: cell[k] for k in ("method", "rank", "lr", "steps", "seed")} | cell["options"]
    if flags.get("components") != "unet":
        flags.setdefault("text_encoder_lr", cell["lr"])
    flags |= {"images": folder, "class_noun": asked.class_noun, "checkpoint_every": 0, "tensorboard": False}
    with tempfile.TemporaryDirectory() as temporary:
        run = RunFolder.create((keep or Path(temporary)) / name_of(cell), overwrite=True)
        base = run_training(run, settings.build(settings.merge({}, flags)))
        seconds = run.read_summary()["seconds_per_step"]
    texts = [fill(p, trigger="sks", class_noun=asked.class_noun) for p in prompts for _ in range(images_per_prompt)]
    seeds = [1000 + i for _ in prompts for i in range(images_per_prompt)]
    references = list(read_folder(folder).images.values())

    def scores() -> dict:
        images = sample(base, texts, seeds, **SAMPLING)
        result = score_images(images, texts, references, dino=dino, clip=clip, trigger="sks")
        return {name: round(result[name], 4) for name in ("dino", "clip_i", "clip_t")}

    if cell["subject"] not in before:
        with Disabled(base):
            before[cell["subject"]] = scores()
    return {**cell, "before": before[cell["subject"]], "after": scores(), "seconds_per_step": round(seconds, 3)}


def main() -> None:
    subjects = sorted(prompts.parent.name for prompts in SAMPLES.glob("*/prompts.toml"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--methods", nargs="+", default=list(RATES), choices=RATES)
    parser.add_argument("--ranks", nargs="+", type=int, default=[8])
    parser.add_argument("--rates", nargs="+", type=float, help="for every method (default: three for each)")
    parser.add_argument("--defaults", action="store_true", help="the trainer's own rates of each method, nothing else")
    parser.add_argument("--subjects", nargs="+", default=["owl", "cupcake"], choices=subjects)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--keep", type=Path, help="folder for the runs, so that symdream evaluate --run can be asked")
    parser.add_argument("--images-per-prompt", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="other settings of every cell")
    args = parser.parse_args()

    options = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in args.set)}
    args.output.parent.mkdir(parents=True, exist_ok=True)  # not to fail after the first cell
    lines = args.output.read_text().splitlines() if args.output.exists() else []
    done = [json.loads(line) for line in lines]
    dino, clip = load_dino(), load_clip()
    before = {line["subject"]: line["before"] for line in done}
    for method, rank, subject, seed in itertools.product(args.methods, args.ranks, args.subjects, args.seeds):
        for lr in [METHODS[method].lr] if args.defaults else args.rates or RATES[method]:
            cell = {"method": method, "rank": rank, "lr": lr, "subject": subject, "seed": seed, "steps": args.steps}
            cell["options"] = options
            if any(all(line[k] == v for k, v in cell.items()) for line in done):
                continue
            result = try_cell(cell, args.images_per_prompt, dino, clip, before, args.keep)
            with args.output.open("a") as file:
                file.write(json.dumps(result) + "\n")
            gain = result["after"]["dino"] - result["before"]["dino"]
            print(f"{method:9} r{rank} lr {lr:g} {subject}: DINO {gain:+.3f}, CLIP-T {result['after']['clip_t']:.3f}")


if __name__ == "__main__":
    main()
