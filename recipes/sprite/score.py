"""Score a base: VAE, CLIP, DINO, what it draws, and how well it learns a subject.

    python recipes/sprite/score.py --data sprites.safetensors --out scores           the embedded base
    python recipes/sprite/score.py --data sprites.safetensors --out scores --base OUT   one that train.py made
    python recipes/sprite/score.py --data sprites.safetensors --out scores --images 100 --only vae clip dino draws

Writes OUT/scores.json after every part (--only adds to what it has), and OUT/scores.md: its column beside today's
(recipes/sprite/today.json) and the goals. Pictures are judged by one CLIP and one DINO for all bases (--judge; default:
the embedded ones): compare only columns of the same judge, which scores.json names by its hash.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for recipes.*, from any working folder

import torch  # noqa: E402

import symdream.quiet  # noqa: E402, F401
from recipes.sprite import drawn, measures  # noqa: E402
from recipes.sprite.art import read_art  # noqa: E402
from recipes.sprite.compose import Composer  # noqa: E402
from recipes.sprite.dreambooth_gain import SUBJECTS, gain  # noqa: E402
from recipes.sprite.parts import clip_encoder, dino_encoder, load_base_at, load_part, load_tokenizer  # noqa: E402
from symdream.diffusion.embedded import sprite_folder  # noqa: E402
from symdream.diffusion.hashes import weights_hash  # noqa: E402
from symdream.errors import RequestError, SymdreamError  # noqa: E402
from symdream.ui import say  # noqa: E402

TODAY = Path(__file__).resolve().parent / "today.json"
PARTS = ("vae", "clip", "dino", "draws", "dreambooth")
PAIRS = 1024
# part, key, what the table calls it, and the goal of the recipe (None: there is none)
ROWS = (
    ("vae", "psnr", "VAE: PSNR of held-out sprites, dB", "≥ 31"),
    ("clip", "retrieval", "CLIP: retrieval@1 of 1,024 pairs", "≥ 0.85"),
    ("dino", "retrieval", "DINO: retrieval@1 of held-out instances", "≥ 0.85"),
    ("dino", "drawing", "DINO: the same, 3d render and glossy icon as one", None),
    ("dino", "same", "DINO: same sprite on another background", None),
    ("dino", "other", "DINO: another thing", None),
    ("dino", "same_minus_other", "DINO: same minus other", "≥ 0.85"),
    ("dino", "style", "DINO: same thing in another style", None),
    ("dino", "round_trip", "DINO: lost by a VAE round trip", "≤ 0.02"),
    ("draws", "thing", "draws the thing (of 20)", "≥ 0.70"),
    ("draws", "colour", "draws the colour (of 13)", "≥ 0.95"),
    ("draws", "pattern", "draws the pattern (of 4)", "≥ 0.95"),
    ("draws", "style", "draws the style (of 5)", None),
    ("draws", "two things", "draws both of two things (of 20 each)", None),
    ("dreambooth", "before", "DreamBooth: DINO before", None),
    ("dreambooth", "gain", "DreamBooth: gain in DINO", None),
)


def score(args: argparse.Namespace, device: torch.device) -> dict:
    """The parts asked for; args.out/scores.json grows with every one, and keeps what it had of the same weights."""
    args.out.mkdir(parents=True, exist_ok=True)
    root, judge = args.base, args.judge
    weights = weights_hash(root, root.glob("sprite-*/**/*.safetensors"))
    tokenizer = load_tokenizer()
    art = read_art(args.data)
    held_out, seen = (Composer(art.where(held_out=flag), tokenizer, device) for flag in (True, False))
    about = {"base": root.name, "weights_sha256": weights, "seed": args.seed}
    kept = json.loads(args.out.joinpath("scores.json").read_text()) if (args.out / "scores.json").is_file() else {}
    result: dict = kept if about.items() <= kept.items() else about | {"seconds": {}}

    def vae() -> dict:
        return {"psnr": measures.vae_psnr(load_part(root, "vae").to(device), held_out, args.seed)}

    def clip() -> dict:
        encoder = clip_encoder(root, device)
        return {"retrieval": measures.clip_retrieval(encoder, seen, args.pairs, args.seed), "pairs": args.pairs}

    def dino() -> dict:
        encoder = dino_encoder(root, device)
        found = measures.dino_instance(encoder, load_part(root, "vae").to(device), held_out, args.seed)
        return found | {"same_minus_other": found["same"] - found["other"], "sprites": len(held_out.things) * 5}

    def draws() -> dict:
        encoder = clip_encoder(judge, device)
        base = load_base_at(root).to(device)
        found = drawn.text_to_image(base, encoder, seen, args.images, args.seed, args.out / "drawn.png")
        return found | {"images": args.images, "judge": encoder.provenance["weights_sha256"]}

    def dreambooth() -> dict:
        encoder = dino_encoder(judge, device)
        found = gain(load_base_at(root).to(device), encoder, args.subject_steps, args.seed, args.subjects)
        about = {"subjects": list(args.subjects), "steps": args.subject_steps}
        return found | about | {"judge": encoder.provenance["weights_sha256"]}

    for name, part in zip(PARTS, (vae, clip, dino, draws, dreambooth), strict=True):
        if name in args.only:
            start = time.perf_counter()
            result[name] = part()
            result["seconds"][name] = round(time.perf_counter() - start, 1)
            told = {key: round(value, 3) for key, value in result[name].items() if isinstance(value, float)}
            say(f"{name} ({result['seconds'][name]:.0f} s): {told}")
            write(args.out / "scores.json", json.dumps(result, indent=1) + "\n")
    return result


def table(columns: dict[str, dict]) -> str:
    """Markdown: the rows that any column has, with the judge's ceilings where there are any, and the goals."""
    lines = [f"| | {' | '.join(columns)} | ceiling | goal |", "|---|" + "---|" * (len(columns) + 2)]

    def cell(result: dict, part: str, key: str) -> str:
        value = result.get(part, {}).get(key)
        return "" if value is None else f"{value:.1f}" if key == "psnr" else f"{value:.2f}"

    last = list(columns.values())[-1]
    for part, key, label, goal in ROWS:
        cells = [cell(result, part, key) for result in columns.values()]
        if any(cells):
            lines.append(f"| {label} | {' | '.join(cells)} | {cell(last, part, key + ', ceiling')} | {goal or ''} |")
    return "\n".join(lines) + "\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(path)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the packed art, made by data.py")
    parser.add_argument("--out", type=Path, required=True, help="folder for scores.json, scores.md and drawn.png")
    parser.add_argument("--base", type=Path, default=sprite_folder(), help="folder with sprite-diffusion, -clip, -dino")
    parser.add_argument("--judge", type=Path, default=sprite_folder(), help="whose CLIP and DINO judge the pictures")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--images", type=int, default=500, help="how many pictures to draw (default 500)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help=f"pairs of the CLIP retrieval (default {PAIRS})")
    parser.add_argument("--subjects", nargs="+", default=list(SUBJECTS), help=f"of sample_data ({', '.join(SUBJECTS)})")
    parser.add_argument("--subject-steps", type=int, default=200, help="training steps of each subject (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    if args.images < 10 or args.pairs < 2:
        parser.error("--images must be at least 10 and --pairs at least 2")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    try:
        if not args.base.is_dir():
            raise RequestError("There is no such folder.", where=str(args.base), fix="give train.py's --out")
        result = score(args, torch.device(args.device))
    except SymdreamError as error:
        say(str(error))
        return error.exit_code
    columns = {"today": json.loads(TODAY.read_text(encoding="utf-8"))} if TODAY.is_file() else {}
    text = table(columns | {args.base.name: result})
    write(args.out / "scores.md", text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
