"""Fetch, draw and pack the art that sprite is trained on (needs node, npm and a network; training needs none of them).

    python recipes/sprite/data.py --out sprites.safetensors

Installs the packages of package.json with npm into a temporary folder (--work keeps it), draws the icons of things.txt
and held_out.txt in five styles (rasterise.mjs) and packs them as WebP. The same lists give the same file.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # for recipes.*, from any working folder

from PIL import Image  # noqa: E402

from recipes.sprite.art import Sprite, pack  # noqa: E402
from recipes.sprite.language import held_out_icons, training_icons  # noqa: E402
from symdream.errors import RequestError, SymdreamError, WorkError  # noqa: E402
from symdream.ui import say  # noqa: E402

QUALITY = 85  # of WebP, for the colours; the alpha is stored without loss


def draw(icons: list[str], work: Path) -> Path:
    """The folder with index.json and the PNGs of all icons in all styles."""
    for tool in ("npm", "node"):
        if shutil.which(tool) is None:
            raise RequestError(f"{tool} is not installed.", fix="install Node.js 20.9 or newer")
    work.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "rasterise.mjs"):
        shutil.copyfile(HERE / name, work / name)
    (work / "icons.json").write_text(json.dumps(icons), encoding="utf-8")
    for command in (["npm", "install", "--no-audit", "--no-fund"], ["node", "rasterise.mjs", "icons.json", "drawn"]):
        say(" ".join(command))
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        if done.returncode:
            told = done.stderr.strip()[-1000:]
            raise WorkError(f"{command[0]} ended with {done.returncode}: {told}", where=str(work))
    return work / "drawn"


def webp(path: Path) -> bytes:
    with Image.open(path) as image:
        file = io.BytesIO()
        image.convert("RGBA").save(file, "WEBP", quality=QUALITY, method=4)
    return file.getvalue()


def build(drawn: Path, out: Path, icons: list[str]) -> int:
    """Pack what was drawn of these icons; returns the number of sprites."""
    training, held_out = training_icons(), held_out_icons()
    sprites, files = [], []
    for entry in json.loads((drawn / "index.json").read_text(encoding="utf-8")):
        icon = entry["icon"]
        if icon in icons:
            thing = training.get(icon) or held_out[icon]
            kept = {key: entry[key] for key in ("style", "category", "licence", "source")}
            sprites.append(Sprite(thing=thing, held_out=icon in held_out, **kept))
            files.append(webp(drawn / entry["file"]))
    pack(sprites, files, out)
    return len(sprites)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the packed file to write")
    parser.add_argument("--work", type=Path, help="folder for packages and drawings, kept (default: a temporary one)")
    parser.add_argument("--drawn", type=Path, help="pack these drawings of an earlier --work/drawn; draw nothing")
    parser.add_argument(
        "--only", nargs="+", metavar="ICON", help="of the lists, these alone (the tests' art is so made)"
    )
    args = parser.parse_args()
    if unknown := set(args.only or ()) - set(training_icons()) - set(held_out_icons()):
        parser.error(f"--only: {', '.join(sorted(unknown))}: neither in things.txt nor in held_out.txt")
    try:
        with tempfile.TemporaryDirectory() as temporary:
            icons = args.only or [*training_icons(), *held_out_icons()]
            drawn = args.drawn or draw(icons, args.work or Path(temporary))
            count = build(drawn, args.out, icons)
    except SymdreamError as error:
        say(str(error))
        return error.exit_code
    say(f"{args.out}: {count} sprites, {args.out.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
