"""Evaluate an adapter file of any layout, also one of another tool: with and without it, scored against photos."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from symdream.config import Subject
from symdream.diffusion.hashes import weights_hash
from symdream.errors import Problem, Problems, typed
from symdream.interop.metadata import recommended_weight
from symdream.interop.open import open_adapter
from symdream.metrics.cache import EmbeddingCache
from symdream.metrics.drawing import Drawing
from symdream.metrics.encoders import load_encoders
from symdream.metrics.prompts import read_prompts
from symdream.metrics.references import read_references
from symdream.metrics.run_prompts import run_prompts
from symdream.metrics.run_scores import COUNT, check_output, score_subject
from symdream.training.devices import open_accelerator


def evaluate_adapter(
    path: Path,
    reference: Path,
    output: Path,
    *,
    base: str | None = None,
    trigger: str | None = None,
    class_noun: str | None = None,
    prompts: Path | None = None,
    dino: str | None = None,
    clip: str | None = None,
    count: int = COUNT,
    seed: int = 0,
    device: str = "auto",
    overwrite: bool = False,
    cache: EmbeddingCache | None = None,
) -> dict[str, Any]:
    """Score the adapter at `path` as `evaluate_run` scores a run, against the photos in `reference`.

    `trigger` and `class_noun` None: what the adapter's metadata says, else what the prompts file says. Writes
    OUTPUT/before/, OUTPUT/after/, OUTPUT/class/, grid.png and scores.json, and returns the content of the last.
    Raises: RequestError if the adapter does not fit its base, photos are missing, the output exists, or nobody says
    which words stand for the subject.
    """
    check_output(output, overwrite)
    beside = reference / "prompts.toml"
    asked = prompts or (beside if beside.is_file() else None)
    said = read_prompts(asked).class_noun if asked else None
    accelerator, dtype = open_accelerator(device, "auto")
    photos = read_references(reference)
    loaded, metadata = open_adapter(path, base=base, device=accelerator.device, dtype=dtype)
    words = {
        "--trigger": trigger or metadata.get("trigger"),
        "--class-noun": class_noun or metadata.get("class_noun") or said,
    }
    if unknown := [
        Problem(flag, f"is needed: {path.name} does not say it") for flag, word in words.items() if not word
    ]:
        raise Problems("the request", unknown)
    subject = Subject(images=reference, class_noun=words["--class-noun"], trigger=words["--trigger"])
    dino_encoder, clip_encoder = load_encoders(loaded.embedded, dino, clip, device=accelerator.device)
    method, rank = metadata.get("method", "lora"), metadata.get("rank")
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    cache = cache or EmbeddingCache()
    again = f"symdream evaluate --adapter {typed(path)} --reference {typed(reference)}"
    drawing = Drawing(output, weights_hash(path.parent, files), again, cache.folder)
    scored = score_subject(
        subject, photos, run_prompts(subject, loaded, prompts), drawing, method, rank, loaded,
        dino_encoder, clip_encoder, cache,
        count=count, seed=seed, weight=recommended_weight(metadata),
    )  # fmt: skip
    scored.write(output, path.stem)
    drawing.end()
    return scored.result
