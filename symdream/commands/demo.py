"""Teach the embedded base a sample subject and show it in new scenes.

Trains SingLoRA on five pictures (two to four minutes on two CPU cores), draws the same prompts with the base
alone and with the adapter, scores both, and writes the adapter as one LoRA file for other tools.
With --images and --class-noun it takes pictures of your own. Stopped, it goes on by the same command with its -o.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from symdream.data.samples import sample_data
from symdream.errors import Stopped, typed
from symdream.ui import results_console, say

if TYPE_CHECKING:
    from symdream.config import TrainConfig
    from symdream.diffusion.base import Base
    from symdream.training.run_folder import RunFolder

SUBJECT = "owl"
# The best that was found for SingLoRA on sprite (docs/tuning.md); the papers' start stays the trainer's default.
SPRITE_SINGLORA = {"init": "small", "lr": 2e-3, "text_encoder_lr": 2e-3}
MARK = "demo.json"  # in a run folder: it is a demo's, asked for so
ROW_LABELS = ("the subject's photos", "the base alone", "with the adapter, same seeds")


@dataclass
class Args:
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """Run folder (None: a new one under ./runs)."""
    images: Path | None = None
    """Folder with 3 to 6 pictures of your own subject (None: the sample owl)."""
    class_noun: str | None = None
    """What your subject is: "dog", "bird", "cup"."""
    method: Literal["lora", "lora+", "dora", "singlora", "symlora"] = "singlora"
    """Which adapter is trained."""
    rank: int = 16
    """Rank of the adapter; at rank 16 SingLoRA still trains half of what LoRA would."""
    steps: int = 400
    """Training steps, of two pictures each."""
    seed: int = 0
    """All that is drawn at random follows from it."""
    base: str = "sprite"
    """Which base is taught (see symdream base list)."""
    overwrite: bool = False
    """Replace the run folder if there is one."""


def run(args: Args) -> int:
    from symdream import settings
    from symdream.metrics.prompts import read_prompts
    from symdream.training.request import check_base, check_subject
    from symdream.training.run_folder import RunFolder, new_run_path

    images = args.images or sample_data() / SUBJECT
    noun = args.class_noun
    if noun is None and (images / "prompts.toml").is_file():
        noun = read_prompts(images / "prompts.toml").class_noun
    flags = {
        "images": images,
        "class_noun": noun,
        "base": args.base,
        "method": args.method,
        "rank": args.rank,
        "steps": args.steps,
        # On sprite more and smaller steps gain more than fewer and larger ones (docs/tuning.md).
        "batch_size": 2,
        "seed": args.seed,
    }
    if args.base == "sprite" and args.method == "singlora":
        flags |= SPRITE_SINGLORA
    config = settings.build(settings.merge({}, flags), "the request", checks=(check_subject, check_base))
    path = args.output or new_run_path(Path("runs"), f"demo-{images.resolve().name}")
    RunFolder(path).put_back()
    goes_on = not args.overwrite and was_stopped(path, flags)
    folder = RunFolder.open(path) if goes_on else RunFolder.create(path, overwrite=args.overwrite)
    go_on = f"go on with: {again_command(args, path)}"
    try:
        base = train(folder, config, goes_on)
    except Stopped as error:  # after a step; before the first one there is nothing to go on with
        mark(folder, flags)
        raise Stopped(error.what, fix=go_on) from None
    mark(folder, flags)
    try:
        metadata = finish(folder, base, args.seed)
    except (Stopped, KeyboardInterrupt) as error:
        raise Stopped(error.what if isinstance(error, Stopped) else "Stopped.", fix=go_on) from None
    print_table(folder)
    subject = f"{metadata['trigger']} {metadata['class_noun']}"
    print(f"pictures       {grid_of(path)}")
    print(f'LoRA file      {lora_of(path)}  (ComfyUI, A1111, diffusers; its subject answers to "{subject}")')
    print(f"run folder     {path}")
    prompt = f"a 3d render of a {subject} on a red background"
    print(f"more pictures  {program()} generate --adapter {typed(path)} --prompt {typed(prompt)} -o images")
    return 0


def grid_of(path: Path) -> Path:
    return path / "grid.png"


def lora_of(path: Path) -> Path:
    return path / f"{path.name}-lora.safetensors"


def mark(folder: RunFolder, flags: Mapping[str, Any]) -> None:
    """Note in the run folder that it is a demo's, and with which settings."""
    from symdream.files import write_json

    write_json(folder.path / MARK, _plain(flags))


def was_stopped(path: Path, flags: Mapping[str, Any]) -> bool:
    """Whether `path` is what a demo with these very settings left before it was done."""
    from symdream.files import read_json
    from symdream.training.run_folder import is_run

    done = grid_of(path).is_file() and lora_of(path).is_file()
    return is_run(path) and not done and read_json(path / MARK) == _plain(flags)


def _plain(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(value.resolve()) if isinstance(value, Path) else value for name, value in flags.items()}


def train(folder: RunFolder, config: TrainConfig, goes_on: bool) -> Base:
    """The base with the trained adapter on it; what was trained already is not trained again."""
    # Only now, since torch and diffusers take seconds to import and a wrong request should not wait for them.
    from symdream.interop.open import open_adapter
    from symdream.training.devices import open_accelerator
    from symdream.training.processes import age
    from symdream.training.request import settings_of
    from symdream.training.session import run_training

    if not goes_on:
        return run_training(folder, config, age=age())
    if folder.read_state().get("status") != "finished":
        return run_training(folder, settings_of(folder), resume=True, age=age())
    say(f"{folder.path} is trained; its pictures and files follow.")
    accelerator, dtype = open_accelerator(config.model.device, config.model.dtype)
    base, _ = open_adapter(folder.path, device=accelerator.device, dtype=dtype)
    folder.count_seconds(age(), before=folder.read_summary().get("seconds_total", 0.0))
    return base


def finish(folder: RunFolder, base: Base, seed: int) -> dict[str, Any]:
    """Score (unless it is scored already), draw the grid, write the LoRA file; returns the adapter's metadata."""
    from symdream.files import read_json
    from symdream.interop.companions import write_companions
    from symdream.interop.lora_file import write_diffusers_lora
    from symdream.metrics.run_scores import evaluate_run

    scores = folder.path / "evaluation" / "scores.json"
    # Without pictures of the class alone, which would take as long as eight more of the subject; `evaluate` draws them.
    drawn = {"base": base, "seed": seed, "class_pictures": 0}
    result = read_json(scores) if scores.is_file() else evaluate_run(folder, **drawn)
    metadata = read_adapter_metadata(folder)
    write_diffusers_lora(base, lora_of(folder.path), metadata)
    write_companions(lora_of(folder.path), folder.path, metadata)
    folder.update_summary(seconds_total=folder.seconds())
    draw_grid(grid_of(folder.path), folder, result["prompts"])
    return metadata


def program() -> str:
    """`symdream` as it is typed: `make demo` runs it from a virtual environment that may not be activated."""
    started = Path(sys.argv[0])
    return typed(started) if started.name == "symdream" and not shutil.which("symdream") else "symdream"


def again_command(args: Args, path: Path) -> str:
    """What to type to go on with this demo, which lies at `path`."""
    given = [
        f" --{field.name.replace('_', '-')} {typed(getattr(args, field.name))}"
        for field in dataclasses.fields(args)
        if field.name not in ("output", "overwrite") and getattr(args, field.name) != field.default
    ]
    return f"{program()} demo{''.join(given)} -o {typed(path)}"


def read_adapter_metadata(folder: RunFolder) -> dict:
    from symdream.diffusion.adapters import WEIGHTS, read_metadata

    return read_metadata(next(folder.adapter.glob(f"*/{WEIGHTS}")))


def draw_grid(path: Path, folder: RunFolder, prompts: list[str]) -> None:
    """Row 1 the photos, row 2 the base's answers, row 3 the adapter's, from the same seeds."""
    from PIL import Image

    from symdream.data.captions import fill
    from symdream.data.images import read_folder
    from symdream.diffusion.grid import save_grid

    config = folder.read_config()
    photos = list(read_folder(config.subject.images).images.values())[:6]
    drawn = [
        [Image.open(p) for p in sorted((folder.path / "evaluation" / which).glob(f"*-{config.training.seed}.png"))]
        for which in ("before", "after")
    ]
    words = {"trigger": config.subject.trigger, "class_noun": config.subject.class_noun}
    save_grid(
        path,
        [photos, *drawn],
        row_labels=ROW_LABELS,
        column_labels=[fill(p, **words) for p in prompts],
        labels_above_row=1,
    )


def print_table(folder: RunFolder) -> None:
    """Scores before, after and of the ideal pictures, and what the adapter cost."""
    from rich.table import Table

    summary = folder.read_summary()
    table = Table(title="on held-out prompts (higher is better)", title_justify="left")
    for name in ("", "DINO", "CLIP-I", "CLIP-T"):
        table.add_column(name, justify="left" if not name else "right")
    rows = {"before": "the base alone", "after": "with the adapter", "ceiling": "the true subject, composed"}
    for key, label in rows.items():
        if scores := summary["scores"].get(key):
            table.add_row(label, *(f"{scores[name]:.3f}" for name in ("dino", "clip_i", "clip_t")))
    results_console().print(table)
    ours, lora = summary["trainable_parameters"], summary["lora_parameters_at_this_rank"]
    print(f"parameters     {ours:,} trained; LoRA of the same rank: {lora:,} ({ours / lora:.0%})")
    seconds, step = summary["seconds_total"], summary["seconds_per_step"]
    print(f"time           {seconds:.0f} s in all" + (f", {step:.2f} s a training step" if step else ""))
    print(f"memory         {summary['peak_memory_bytes'] / 2**30:.1f} GiB at the peak")
