"""Compose sample_data/: sixteen subjects of Fluent Emoji's 3D art, on the backgrounds that sprite's captions name.

    python recipes/subjects/compose.py --art package/assets --out sample_data

Each subject gets five photos, their masks, its cut-out, six ideal pictures (what a held-out prompt asks for, with
the true subject in it) and prompts.toml. Every choice is drawn from a generator seeded with the subject's name.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from backgrounds import COLOURS, PATTERNS, draw_background
from PIL import Image

SIZE = 256  # pixels, of every picture


@dataclass(frozen=True)
class Subject:
    name: str
    class_noun: str  # a word that sprite was trained on, of something alike
    art: str  # file stem in the art's folder: Unicode code points
    avoid: tuple[str, ...]  # background colours in which its outline would drown
    tuning: bool = False


SUBJECTS = (
    Subject("owl", "bird", "1f989", ("brown", "black"), tuning=True),
    Subject("teddy_bear", "bear", "1f9f8", ("orange", "brown")),
    Subject("robot", "machine", "1f916", ("white", "gray")),
    Subject("cupcake", "cake", "1f9c1", ("pink", "purple"), tuning=True),
    Subject("backpack", "bag", "1f392", ("pink", "red")),
    Subject("teapot", "pot", "1fad6", ("pink", "red")),
    Subject("fox", "dog", "1f98a", ("orange", "yellow")),
    Subject("lion", "cat", "1f981", ("brown", "orange")),
    Subject("hamster", "mouse", "1f439", ("orange", "pink")),
    Subject("duck", "bird", "1f986", ("gray", "white", "yellow")),
    Subject("t_rex", "lizard", "1f996", ("green", "teal")),
    Subject("snowman", "man", "26c4", ("white", "gray")),
    Subject("alarm_clock", "clock", "23f0", ("red", "pink")),
    Subject("running_shoe", "shoe", "1f45f", ("gray", "purple")),
    Subject("racing_car", "car", "1f3ce-fe0f", ("red", "orange")),
    Subject("wrapped_gift", "box", "1f381", ("yellow", "red")),
)


@dataclass(frozen=True)
class Placement:
    """Where a cut-out lies: first mirrored, then turned, then scaled and moved.

    `scale`: longer side of the turned cut-out, as a part of the picture's side; `x`, `y`: centre of its box, as
    parts of the picture's side, from the top left; `angle`: degrees, anticlockwise; `flip`: mirrored left to right.
    """

    scale: float
    x: float
    y: float
    angle: float = 0.0
    flip: bool = False

    @classmethod
    def anywhere(cls, rng: random.Random) -> Placement:
        """The whole subject in sight: a box of `scale` never leaves the picture."""
        scale = round(rng.uniform(0.6, 0.88), 2)
        room = (1 - scale) / 2 - 0.02
        x, y = (round(0.5 + rng.uniform(-room, room), 2) for _ in range(2))
        return cls(scale, x, y, round(rng.uniform(-12, 12), 1), rng.random() < 0.5)


def load_cutout(art: Path, stem: str) -> Image.Image:
    """The art's RGBA picture, trimmed to its visible part."""
    with Image.open(art / f"{stem}.webp") as image:
        image = image.convert("RGBA")
    return image.crop(image.getchannel("A").getbbox())


def place(cutout: Image.Image, at: Placement) -> Image.Image:
    """The cut-out on an empty RGBA picture of SIZE x SIZE."""
    if at.flip:
        cutout = cutout.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    cutout = cutout.rotate(at.angle, Image.Resampling.BICUBIC, expand=True)
    cutout = cutout.crop(cutout.getchannel("A").getbbox())
    ratio = at.scale * SIZE / max(cutout.size)
    width, height = (max(1, round(side * ratio)) for side in cutout.size)
    layer = Image.new("RGBA", (SIZE, SIZE))
    corner = (round(at.x * SIZE - width / 2), round(at.y * SIZE - height / 2))
    layer.paste(cutout.resize((width, height), Image.Resampling.LANCZOS), corner)
    return layer


def compose(background: Image.Image, layer: Image.Image) -> Image.Image:
    """The layer over the background, in at most 256 colours: a third of the bytes, and to the eye the same."""
    picture = Image.alpha_composite(background.convert("RGBA"), layer).convert("RGB")
    return picture.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


def choose_backgrounds(rng: random.Random, avoid: tuple[str, ...]) -> list[list[tuple[str, str]]]:
    """(colour, pattern) for five photos, six held-out and four selection prompts: fifteen different ones.

    The photos' colours all differ, and so do the held-out ones'; those that no photo has come first. Each
    set shows every pattern.
    """
    colours = [colour for colour in COLOURS if colour not in avoid]
    rng.shuffle(colours)
    patterns = list(PATTERNS)
    rng.shuffle(patterns)
    photos = list(zip(colours[:5], [*patterns, rng.choice(patterns)], strict=True))
    taken = set(photos)

    def pick(candidates: list[str], pattern: str) -> tuple[str, str]:
        colour = next(colour for colour in candidates if (colour, pattern) not in taken)
        candidates.remove(colour)
        taken.add((colour, pattern))
        return colour, pattern

    unseen_first = colours[5:] + colours[:5]
    held_out = [pick(unseen_first, pattern) for pattern in (*PATTERNS, *rng.sample(PATTERNS[1:], 2))]
    anew = rng.sample(colours, len(colours))
    selection = [pick(anew, pattern) for pattern in PATTERNS]
    return [photos, held_out, selection]


def prompt_text(colour: str, pattern: str) -> str:
    texture = "" if pattern == "plain" else f"{pattern} "
    return f"a 3d render of a {{subject}} on a {texture}{colour} background"


def toml_tables(name: str, rows: list[dict]) -> str:
    def value(v) -> str:
        return str(v).lower() if isinstance(v, bool) else f'"{v}"' if isinstance(v, str) else str(v)

    return "".join(f"\n[[{name}]]\n" + "".join(f"{k} = {value(v)}\n" for k, v in row.items()) for row in rows)


def save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)


def compose_subject(subject: Subject, art: Path, out: Path) -> None:
    rng = random.Random(f"symdream subject {subject.name}")
    cutout = load_cutout(art, subject.art)
    folder = out / subject.name
    save(cutout, folder / "cutout" / "subject.png")
    photos, held_out, selection = choose_backgrounds(rng, subject.avoid)

    images = []
    for i, (colour, pattern) in enumerate(photos):
        at = Placement.anywhere(rng)
        layer = place(cutout, at)
        save(compose(draw_background(rng, SIZE, colour, pattern), layer), folder / f"{i:02d}.png")
        save(layer.getchannel("A"), folder / "masks" / f"{i:02d}.png")
        images.append({"file": f"{i:02d}.png", "background": colour, "pattern": pattern, **vars(at)})

    prompts = []
    for i, (colour, pattern) in enumerate(held_out):
        ideal = f"ideal/{i:02d}.png"
        layer = place(cutout, Placement.anywhere(rng))
        save(compose(draw_background(rng, SIZE, colour, pattern), layer), folder / ideal)
        prompts.append({"text": prompt_text(colour, pattern), "held_out": True, "ideal": ideal})
    prompts += [{"text": prompt_text(*background), "held_out": False} for background in selection]

    head = f'class_noun = "{subject.class_noun}"\ntuning = {str(subject.tuning).lower()}\n'
    text = head + toml_tables("image", images) + toml_tables("prompt", prompts)
    (folder / "prompts.toml").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--art", type=Path, required=True, help="folder with the .webp files of the art")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the subjects into")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[s.name for s in SUBJECTS])
    args = parser.parse_args()
    subjects = [s for s in SUBJECTS if args.only is None or s.name in args.only]

    if missing := [f"{s.art}.webp" for s in subjects if not (args.art / f"{s.art}.webp").is_file()]:
        sys.exit(f"{args.art} lacks {', '.join(missing)}: recipes/subjects/README.md tells where to get them")
    for subject in subjects:
        compose_subject(subject, args.art, args.out)
        print(args.out / subject.name)


if __name__ == "__main__":
    main()
