"""What lies beside an exported file: NAME.txt tells how to use it, NAME.png shows what it does."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symdream.data.captions import fill
from symdream.files import write_atomically, write_text
from symdream.interop.metadata import recommended_weight, subject_words, trained_base
from symdream.replacing import Kind

# Sprite knows only this language; the others are usual for photographs.
SPRITE_PROMPTS = (
    "a 3d render of a {subject} on a striped blue background",
    "a flat icon of a {subject} on a yellow background",
    "a glossy icon of a {subject} and a hat on a green background",
)
PROMPTS = ("a photo of a {subject}", "a photo of a {subject} on a beach", "a painting of a {subject} in a forest")


def outputs(source: Path, to: str, output: Path) -> dict[Path, Kind]:
    """All that an export of the adapter at `source` to `output` writes, companions included, and what each is."""
    if output.suffix != ".safetensors":
        return {output: "peft" if to == "peft" else "base"}
    return dict.fromkeys([output, *companion_paths(output, source)], "file")


def companion_paths(path: Path, source: Path) -> list[Path]:
    """path's .txt, and its .png if the run at `source` has a picture."""
    return [path.with_suffix(suffix) for suffix in ([".txt", ".png"] if sample_picture(source) else [".txt"])]


def write_companions(path: Path, source: Path, metadata: Mapping[str, Any], *, lora: bool = True) -> list[Path]:
    """Write path's .txt, and its .png if the run at `source` has a picture; returns what was written.

    `lora` is False for a whole checkpoint.
    """
    text = path.with_suffix(".txt")
    write_text(text, usage(path.stem, metadata, lora=lora))
    picture = sample_picture(source)
    if picture is None:
        return [text]
    shown = path.with_suffix(".png")
    write_atomically(shown, lambda temporary: shutil.copyfile(picture, temporary))
    return [text, shown]


def usage(name: str, metadata: Mapping[str, Any], *, lora: bool = True) -> str:
    """Trigger, three prompts, and for a LoRA its weight and the line for A1111."""
    subject = subject_words(metadata)
    prompts = example_prompts(metadata)
    base = trained_base(metadata).get("identity", "unknown")
    weight = recommended_weight(metadata)
    lines = [
        f"{name}: a LoRA for {base}" if lora else f"{name}: {base} with its adapter merged in",
        "",
        f"trigger  {subject or 'unknown (the file does not tell)'}",
    ]
    if lora:
        why = "as trained" if weight == 1 else "found best by its training"
        lines += [f"weight   {weight:g} ({why})", f"in A1111 and its kin, write  <lora:{name}:{weight:g}>"]
    if prompts:
        lines += ["", "prompts", *(f"  {prompt}" for prompt in prompts)]
    return "\n".join(lines) + "\n"


def example_prompts(metadata: Mapping[str, Any]) -> list[str]:
    """Three prompts with the subject in them: those it was trained or sampled with, then ones its base understands."""
    if not metadata.get("trigger"):
        return []
    trigger, noun = str(metadata["trigger"]), str(metadata.get("class_noun") or "")
    sprite = trained_base(metadata).get("identity") == "sprite"
    usual = [fill(p, trigger=trigger, class_noun=noun) for p in (SPRITE_PROMPTS if sprite else PROMPTS)]
    known = [str(p) for p in metadata.get("prompts") or [] if re.search(rf"\b{re.escape(trigger)}\b", str(p))]
    return list(dict.fromkeys([*known, *usual]))[:3]


def sample_picture(source: Path) -> Path | None:
    """The newest picture of the trained subject in a run folder: its evaluation's, else its samples'."""
    for pattern in ("evaluation/after/*.png", "samples/step-*.png"):
        found = sorted(Path(source).glob(pattern))
        if found:
            return found[0] if pattern.startswith("evaluation") else found[-1]
    return None
