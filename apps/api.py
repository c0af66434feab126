"""The endpoints `generate` and `compare` for gradio_client; documented in docs/app.md. Others are with their pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from symdream.errors import Problem, Problems
from symdream_apps import comparison, references
from symdream_apps.adapters import named, read_card
from symdream_apps.arguments import checked
from symdream_apps.context import Context
from symdream_apps.errors import told
from symdream_apps.events import ON_DEVICE
from symdream_apps.generation import PictureRequest, check, make
from symdream_apps.history import served
from symdream_apps.shared import Shared
from symdream_apps.studio import Worn
from symdream_apps.work import Line

OWNER = "api"  # of the pictures made for programs, which no page shows


def build(context: Context, shared: Shared) -> None:
    """Register the endpoints; call it inside of the Blocks."""
    tell = told(context)

    def generate(
        request: gr.Request,
        prompt: str,
        adapters: list[dict | str] | None = None,
        base: str = "sprite",
        negative_prompt: str = "",
        sampler: str = "base",
        steps: int | None = None,
        guidance: float | None = None,
        width: int | None = None,
        height: int | None = None,
        seed: int = 0,
        count: int = 1,
    ) -> dict:
        """Pictures of one prompt, from seeds seed, seed + 1, …

        adapters: [{"name": "owl", "weight": 0.8}, …], or names alone; a name is a run folder or file in the runs
        folder, and without a weight an adapter has the one that its training found best. None stands for what suits
        the base.
        Returns {"images": [PNG files], "settings": [of each], "notes": [what to know]}.
        """
        worn = [wear(context, entry) for entry in adapters or []]
        asked = PictureRequest(
            prompt, base, worn, negative_prompt, sampler, steps, guidance, width, height, seed, count
        )
        check(asked)
        result = waited(shared, request, lambda line: make(shared.studio, asked, line))
        return {
            "images": [handed_out(context, file) for file in shared.history.save(OWNER, result.pictures)],
            "settings": [made.settings for made in result.pictures],
            "notes": result.notes,
        }

    def compare(
        request: gr.Request,
        prompts: list[str],
        adapters: list[str],
        seeds: list[int],
        weights: list[float] | None = None,
        base_too: bool = True,
        photos: str = "run",
        base: str = "sprite",
        negative_prompt: str = "",
        sampler: str = "base",
        steps: int | None = None,
        guidance: float | None = None,
    ) -> dict:
        """The same prompts and seeds by the base alone and each adapter or, with `weights`, by one adapter at each.

        photos: "run" (those that each adapter learned from), "none" (no scores), or a sample subject such as "owl".
        Returns {"grid": PNG file, "cells": [{variant, prompt, seed, dino, clip_t, image}], "means": [{variant, dino,
        clip_t}], "notes": [what to know]}; dino and clip_t are null where there are no photos to compare with.
        """
        cards = [read_card(context, named(context, name)) for name in adapters]
        if weights and len(cards) != 1:
            raise Problems("the request", [Problem("weights", f"are for one adapter, not for {len(cards)}")])
        if weights:
            variants = comparison.of_weights(cards[0], weights)
        else:
            variants = comparison.of_adapters(cards, base_too=base_too)
        rows = comparison.check_comparison(variants, prompts, seeds)
        paths = [[worn.path for worn in variant.adapters] for variant in variants]
        known, about_photos = references.find(context, photos, paths, None)
        settings = PictureRequest("", base, (), negative_prompt, sampler, steps, guidance)
        result = waited(
            shared, request, lambda line: comparison.compare(shared.studio, settings, variants, rows, known, line)
        )
        return answer(context, shared, result, [about_photos] if about_photos else [])

    gr.api(tell(checked(generate)), api_name="generate", **ON_DEVICE)
    gr.api(tell(checked(compare)), api_name="compare", **ON_DEVICE)


def wear(context: Context, entry: dict[str, Any] | str) -> Worn:
    """An adapter as a call names it. Raises: RequestError, Problems."""
    entry = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(entry.get("name"), str) or entry.keys() - {"name", "weight"}:
        raise Problems("the request", [Problem("adapters", 'each must be {"name": …, "weight": …}')])
    card = read_card(context, named(context, entry["name"]))
    weight = entry.get("weight")
    if weight is not None and not isinstance(weight, int | float):
        raise Problems("the request", [Problem(f"weight {weight}", "must be a number")])
    return Worn(card.path, card.weight if weight is None else float(weight))


def waited(shared: Shared, request: gr.Request, work: Callable[[Line], Any]) -> Any:
    """The result of `work`, done on the studio's worker until the client leaves. What it tells has no listener here."""
    following = shared.desk.run(request.session_hash, work)
    while True:
        try:
            next(following)
        except StopIteration as end:
            return end.value


def answer(context: Context, shared: Shared, result: comparison.Comparison, notes: Sequence[str]) -> dict[str, Any]:
    flat = [(row, column) for row in range(len(result.rows)) for column in range(len(result.variants))]
    files = shared.history.save(OWNER, [result.cells[row][column].made for row, column in flat])
    cells = []
    for (row, column), file in zip(flat, files, strict=True):
        cell = result.cells[row][column]
        cells.append(
            {
                "variant": result.variants[column].label,
                "prompt": cell.made.settings["prompt"],
                "seed": result.rows[row].seed,
                "dino": cell.dino,
                "clip_t": cell.clip_t,
                "image": handed_out(context, file),
            }
        )
    grid = files[0].with_name(f"{files[0].stem}-grid.png")
    result.grid().save(grid)
    means = result.means() if result.scored else []
    return {
        "grid": handed_out(context, grid),
        "cells": cells,
        "means": [{"variant": label, "dino": dino, "clip_t": clip_t} for label, dino, clip_t in means],
        "notes": [*result.notes, *notes],
    }


def handed_out(context: Context, file: Path) -> dict[str, Any]:
    """A file as gradio_client fetches it."""
    return gr.FileData(path=served(context, file), orig_name=file.name).model_dump()
