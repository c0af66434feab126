"""What the Library shows: a card for every run and adapter file, and what is inside of one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image, ImageDraw

from symdream.diffusion.architecture import FIRST_CONVOLUTION, family_of_file
from symdream.diffusion.grid import first_of_last_row
from symdream.diffusion.headers import read_header
from symdream.errors import RequestError
from symdream.interop.companions import sample_picture
from symdream.interop.grouping import adapter_files
from symdream.progress import duration
from symdream.training.memory_advice import in_words
from symdream.training.run_folder import RunFolder, is_run, new_run_path
from symdream_apps import watching
from symdream_apps.adapters import find_adapters, read_card
from symdream_apps.context import Context
from symdream_apps.references import photo_folders
from symdream_apps.run_status import summary_of
from symdream_apps.runs import Runs, checked_name
from symdream_apps.upload import UNREADABLE
from symdream_apps.wording import brief

SIDE = 256  # pixels of a card's picture
RUN, FILE = "run", "file"
# Of the parts, and of the tenths of their layers above and below the median.
COLORS = {
    "unet": "#4c78a8", "text_encoder": "#f58518", "text_encoder_2": "#54a24b",
    "unet, 90 %": "#a9c3de", "text_encoder, 90 %": "#fbc896", "text_encoder_2, 90 %": "#abd3a5",
    "unet, 10 %": "#a9c3de", "text_encoder, 10 %": "#fbc896", "text_encoder_2, 10 %": "#abd3a5",
}  # fmt: skip
FEW = 16  # numbers on an axis
COMPANIONS = (".txt", ".png")
CHECKPOINT = "a whole checkpoint: choose it as Base"


@dataclass(frozen=True)
class Card:
    """A run or an adapter file: `key` is the run's name, or the file's path below the runs folder."""

    kind: str
    key: str
    title: str
    lines: list[str]
    picture: Image.Image

    @property
    def text(self) -> str:
        return "\n".join([self.title, *self.lines])


def cards(context: Context, runs: Runs) -> list[Card]:
    """Runs first, those at work before the others; then the adapter files beside and in them."""
    found = [_run_card(context, runs, status) for status in runs.statuses()]
    for path in find_adapters(context):
        if not is_run(path):
            found.append(_file_card(context, path))
    return found


def _run_card(context: Context, runs: Runs, status: Any) -> Card:
    run = runs.get(status.name)
    lines = [_adapter_line(context, run.path)] if _has_adapter(run.path) else []
    if status.status != "finished":
        lines.append(watching.label(status).removeprefix(f"{status.name}: "))
    if scored := scores(run):
        lines.append(scored)
    if _has_adapter(run.path):
        lines.append(file_size(adapter_bytes(run.path)))
    picture = sample_picture(run.path) or _photo(context, run)
    return Card(RUN, status.name, status.name, lines, _picture(picture, status.name))


def _photo(context: Context, run: RunFolder) -> Path | None:
    """The first photo that the run learns from, if it lies in the app's folders."""
    from symdream.data.images import find_images

    folders = photo_folders(run.path)
    try:
        return find_images(context.check_path(folders[0]))[0] if folders else None
    except (RequestError, OSError):
        return None


def _file_card(context: Context, path: Path) -> Card:
    beside = path.with_suffix(".png")
    lines = [_adapter_line(context, path), file_size(path.stat().st_size)]
    name = context.name_of(path)
    return Card(FILE, name, name, lines, _picture(beside if beside.is_file() else None, path.stem))


def _adapter_line(context: Context, path: Path) -> str:
    try:
        card = read_card(context, path)
    except RequestError as error:
        return as_base(context, path) or f"cannot be used: {brief(error, context.runs)}"
    return " · ".join(part for part in (card.words, card.method or "LoRA", (card.base or "").split("@")[0]) if part)


def as_base(context: Context, path: Path) -> str | None:
    """Of a whole checkpoint, whether it can be a base, in one line; None where there is no such file at `path`."""
    try:
        shapes = read_header(path).shapes
    except (RequestError, OSError):
        return None
    if len(shapes.get(FIRST_CONVOLUTION, ())) != 4:
        return None
    try:
        family_of_file(shapes, str(path))
    except RequestError as error:
        return f"a whole checkpoint, but none for a base: {brief(error, context.runs)}"
    return CHECKPOINT


def _has_adapter(path: Path) -> bool:
    return any(file.is_file() for file in path.glob("adapter/*/adapter_model.safetensors"))


def adapter_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in adapter_files(path))


def file_size(size: int) -> str:
    """ "812 B", "8.3 KB", "3.4 MB", "1.7 GB": a kilobyte is 1000 bytes, as for `symdream export --compress`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def scores(run: RunFolder) -> str:
    """ "DINO 0.31 (base −0.19), CLIP-T 0.40, class drift 0.35", or "" without an evaluation."""
    summary = summary_of(run)
    found = summary.get("scores")
    before, after = (_numbers(found.get(key)) if isinstance(found, dict) else {} for key in ("before", "after"))
    names = (("dino", "DINO"), ("clip_i", "CLIP-I"), ("clip_t", "CLIP-T"))
    base = f" (base {_number(before['dino'])})" if "dino" in before else ""
    told = [f"{label} {_number(after[key])}{base if key == 'dino' else ''}" for key, label in names if key in after]
    if "drift" in (moved := _numbers(summary.get("class_drift"))):
        told.append(f"class drift {_number(moved['drift'])}")
    return ", ".join(told)


def _numbers(scores: Any) -> dict[str, float]:
    """The scores that are numbers."""
    told = scores if isinstance(scores, dict) else {}
    return {key: value for key, value in told.items() if isinstance(value, int | float)}


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _picture(file: Path | None, name: str) -> Image.Image:
    """The picture of a card, square; without one a plain colour that follows from the name, with its first letter."""
    if file is not None:
        try:
            with Image.open(file) as image:
                image = image.convert("RGB")
                if file.parent.name == "samples":
                    image = first_of_last_row(image)
                side = min(image.size)
                left, top = (image.width - side) // 2, (image.height - side) // 2
                return image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        except UNREADABLE:
            pass  # half written, or gone meanwhile
    hue = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 360
    image = Image.new("HSV", (SIDE, SIDE), (hue * 255 // 360, 60, 200)).convert("RGB")
    from PIL import ImageFont

    draw = ImageDraw.Draw(image)
    draw.text((SIDE / 2, SIDE / 2), name[:1].upper(), "white", ImageFont.load_default(120), anchor="mm")
    return image


def rename_file(context: Context, key: str, name: str) -> str:
    """Give an adapter file among the runs another name, and what tells about it (.txt, .png) too; returns its new key.

    Raises: RequestError if the name is no plain one, or is taken.
    """
    file = _own_file(context, key)
    target = file.with_name(checked_name(name.strip().removesuffix(".safetensors")) + ".safetensors")
    if target == file:
        return key
    if target.exists():
        raise RequestError(f"{target.name} exists already.", fix="choose another name")
    for suffix in COMPANIONS:
        if (beside := file.with_suffix(suffix)).is_file() and not target.with_suffix(suffix).exists():
            beside.rename(target.with_suffix(suffix))
    return context.name_of(file.rename(target))


def delete_file(context: Context, key: str) -> Path:
    """Move an adapter file, and what tells about it, to the trash folder; returns where it lies now."""
    file = _own_file(context, key)
    folder = new_run_path(context.trash, file.stem)
    folder.mkdir(parents=True)
    for suffix in COMPANIONS:
        if (beside := file.with_suffix(suffix)).is_file():
            beside.rename(folder / beside.name)
    return file.rename(folder / file.name)


def _own_file(context: Context, key: str) -> Path:
    """Raises: RequestError unless it is an adapter file in the runs folder, and not within an adapter of a run."""
    path = context.check_path(key)
    if path not in find_adapters(context) or path.suffix != ".safetensors":
        raise RequestError(f"{key} is no adapter file of the runs folder.", fix="look again for a new list")
    return path


def place(context: Context, runs: Runs, kind: str, key: str) -> Path:
    """The checked path behind a card. Raises: RequestError if it is gone."""
    return runs.get(key).path if kind == RUN else context.check_path(key)


def facts_table(runs: Runs, kind: str, key: str, facts: dict[str, Any]) -> list[list[str]]:
    """[name, value] rows: what the adapter is, and what its run cost."""
    ranks = facts["ranks"]
    rows = [
        ["format", f"{facts['format']}, {facts['method']}"],
        ["trained as", facts["trained_as"] or ""],
        ["rank", str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else ""],
        ["layers", ", ".join(f"{count} in {name}" for name, count in facts["components"].items())],
        ["weights", f"{facts['parameters']:,} ({', '.join(facts['dtypes'])}), {file_size(facts['bytes'])}"],
        ["trigger", facts["trigger"] or "not told"],
        ["base", facts["base"] or "not told"],
    ]
    if kind == RUN:
        run = runs.get(key)
        summary = summary_of(run)
        rows.append(["steps", str(summary.get("steps", ""))])
        for name, label, words in (
            ("seconds_total", "time", lambda s: duration(max(1, s))),
            ("peak_memory_bytes", "peak memory", in_words),
        ):
            if isinstance(summary.get(name), int | float):
                rows.append([label, words(summary[name])])
        rows.append(["scores", scores(run)])
    return [row for row in rows if row[1]]


def metadata_rows(facts: dict[str, Any]) -> list[list[str]]:
    """Every metadata entry of the file, symdream's own opened."""
    from symdream.commands.inspect import flat

    told = flat(facts["metadata"])
    return [[name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)] for name, value in told]


def layer_rows(facts: dict[str, Any]) -> list[list[Any]]:
    """Name, rank, shape, norm of the update, largest singular value and its share of the norm's square."""
    rows = []
    for layer in facts["layers"]:
        spectrum, norm = layer["spectrum"], layer["norm"]
        shape = f"{layer['shape'][1]} → {layer['shape'][0]}" if layer["shape"] else "?"
        numbers = [float(f"{norm:.3g}"), float(f"{spectrum[0]:.3g}")] if spectrum else [None, None]
        share = f"{spectrum[0] ** 2 / norm**2:.0%}" if norm else ""
        rows.append([f"{layer['component']}.{layer['layer']}", layer["rank"], shape, *numbers, share])
    return rows


def norms(facts: dict[str, Any]) -> pd.DataFrame:
    """Columns layer (number in the file's order), norm, part."""
    known = [layer for layer in facts["layers"] if layer["norm"] is not None]
    table = [(number, layer["norm"], layer["component"]) for number, layer in enumerate(known, 1)]
    return pd.DataFrame(table, columns=["layer", "norm", "part"])


def spectra(facts: dict[str, Any]) -> pd.DataFrame:
    """Columns number, share, line: singular values over the largest; for each part their median (the part's name),
    10th and 90th percentile over its layers (256 curves of a real base would be no picture)."""
    rows = []
    for part in dict.fromkeys(layer["component"] for layer in facts["layers"]):
        of_part = [layer["spectrum"] for layer in facts["layers"] if layer["component"] == part]
        curves = [[value / values[0] for value in values] for values in of_part if values and values[0] > 0]
        for number in range(max(map(len, curves), default=0)):
            values = pd.Series([curve[number] for curve in curves if len(curve) > number])
            for quantile, name in ((0.5, part), (0.1, f"{part}, 10 %"), (0.9, f"{part}, 90 %")):
                rows.append((number + 1, values.quantile(quantile), name))
    return pd.DataFrame(rows, columns=["number", "share", "line"])


def counted(table: pd.DataFrame, column: str) -> pd.DataFrame:
    """The table with the whole numbers of `column` as text, each with its own tick, where they are few: an axis of
    numbers would have ticks between them, and round what stands there ("1 2 2")."""
    if len(table) and table[column].max() > FEW:
        return table
    return table.assign(**{column: [f"{number:2}" for number in table[column]]})  # text is sorted as text: 2 before 10


def reports(context: Context) -> list[Path]:
    """The report.html of every comparison among the runs, newest first."""
    found = []
    for entry in context.runs.iterdir():
        file = entry / "report.html"
        if not entry.name.startswith(".") and not entry.is_symlink() and file.is_file() and not file.is_symlink():
            found.append(file)
    return sorted(found, key=lambda file: file.stat().st_mtime, reverse=True)
