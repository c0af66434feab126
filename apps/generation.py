"""From a request to pictures: checks it, puts the adapters on, calls `sample`, notes what went into each picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from symdream.data.captions import PLACEHOLDER, fill, prompt_problem, says, shared_triggers
from symdream.diffusion.limits import SAMPLERS, wrong_settings
from symdream.errors import Problem, Problems, RequestError, Stopped
from symdream_apps.adapters import AdapterCard, entry_of, read_card
from symdream_apps.context import Context
from symdream_apps.studio import Studio, Worn
from symdream_apps.work import Line

MAX_COUNT = 16
MAX_SEED = 2**53 - 1  # the browser's numbers are exact up to here
MAX_TIMES = 4  # the base's own number of pixels: beyond, pictures fall apart into repetitions and memory runs out
BATCH_PIXELS = 4 * 512 * 512  # made together at most


@dataclass(frozen=True)
class PictureRequest:
    """What somebody asks for; None is the base's own choice."""

    prompt: str
    base: str = "sprite"
    adapters: Sequence[Worn] = ()
    negative_prompt: str = ""
    sampler: str = "base"
    steps: int | None = None
    guidance: float | None = None
    width: int | None = None
    height: int | None = None
    seed: int = 0
    count: int = 1


@dataclass
class Made:
    """A picture with all that is needed to make it again."""

    image: Image.Image
    settings: dict[str, Any]


@dataclass
class Result:
    pictures: list[Made]
    notes: list[str] = field(default_factory=list)


def check(request: PictureRequest) -> None:
    """Raises: Problems, all that is wrong with the request and can be told without a base."""
    problems = [] if request.prompt.strip() else [Problem("prompt", "is empty: say what the picture should show")]
    for name, message in wrong_settings(request.steps, request.guidance, request.width, request.height).items():
        problems.append(Problem(f"{name} {getattr(request, name)}", message))
    if not 1 <= request.count <= MAX_COUNT:
        problems.append(Problem(f"count {request.count}", f"must be from 1 to {MAX_COUNT}"))
    if not 0 <= request.seed <= MAX_SEED:
        problems.append(Problem(f"seed {request.seed}", f"must be from 0 to {MAX_SEED}"))
    if request.sampler not in SAMPLERS:
        problems.append(Problem(f"sampler {request.sampler}", f"must be one of {', '.join(SAMPLERS)}"))
    for worn in request.adapters:
        if not -10 <= worn.weight <= 10:
            problems.append(Problem(f"weight {worn.weight:g}", "must be from -10 to 10"))
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if wrong := prompt_problem(text):
            problems.append(Problem(name, wrong))
    if problems:
        raise Problems("the request", problems)


def check_size(base: Any, width: int, height: int) -> None:
    """Raises: RequestError if the base cannot make pictures of this size."""
    if width * height > MAX_TIMES * base.resolution**2:
        side = int(MAX_TIMES**0.5 * base.resolution)
        raise RequestError(
            f"{width} × {height} pixels are too many for {base.name}, which learned {base.resolution} × "
            f"{base.resolution}.",
            fix=f"stay below {side} × {side}",
        )


def words_for(prompt: str, cards: Sequence[AdapterCard]) -> str:
    """The prompt with {subject} filled in by the first adapter that tells its words.

    Raises: RequestError if {subject} is in it and no adapter tells them.
    """
    if PLACEHOLDER not in prompt:
        return prompt.strip()
    for card in cards:
        if card.trigger:
            return fill(prompt, trigger=card.trigger, class_noun=card.class_noun).strip()
    raise RequestError(
        f"No adapter here says which words stand for its subject, so {PLACEHOLDER} cannot be filled in.",
        fix="choose an adapter that symdream made, or write the subject into the prompt",
    )


def prompt_notes(base: Any, prompt: str, cards: Sequence[AdapterCard]) -> list[str]:
    """What to tell about a prompt: words that the text encoder does not read, triggers that are missing."""
    notes = cut_off_notes(base, prompt, "prompt") + shared_triggers((card.name, card.trigger) for card in cards)
    for card in cards:
        if card.trigger and not says(prompt, card.trigger):
            notes.append(f'{card.name} answers to "{card.words}", which the prompt does not say.')
    return notes


def cut_off_notes(base: Any, text: str, name: str) -> list[str]:
    from symdream.diffusion.prompts import cut_off

    lost = cut_off(base.tokenizer, text)
    return [f'The {name} is longer than the text encoder reads (75 tokens). Cut off: "{lost}"'] if lost else []


def negative_notes(base: Any, request: PictureRequest) -> list[str]:
    """What to tell about a negative prompt (with {subject} filled in): words that are not read, or no effect at all."""
    from symdream.diffusion.prompts import ineffective

    note = ineffective(request.negative_prompt, guidance_of(base, request))
    return cut_off_notes(base, request.negative_prompt, "negative prompt") + ([note] if note else [])


def guidance_of(base: Any, request: PictureRequest) -> float:
    return base.defaults["guidance"] if request.guidance is None else request.guidance


def make(
    studio: Studio, request: PictureRequest, line: Line, keep: Callable[[int, list[Made]], None] | None = None
) -> Result:
    """The pictures of `request`, seeds seed, seed + 1, …; runs on the studio's worker.

    keep(first, made): called with the pictures first, first + 1, … as soon as they are finished.
    Stopped by `line.stop`, it gives what was finished by then, and a note says so.

    Raises: Problems, RequestError, WorkError; Stopped if nothing was finished.
    """
    check(request)
    cards = [read_card(studio.context, worn.path) for worn in request.adapters]
    prompt = words_for(request.prompt, cards)
    request = replace(request, negative_prompt=words_for(request.negative_prompt, cards))
    base, notes = studio.wear(request.base, request.adapters, line.say)
    seeds = [(request.seed + i) % (MAX_SEED + 1) for i in range(request.count)]
    notes = notes + prompt_notes(base, prompt, cards) + negative_notes(base, request)
    line.say("Denoising …")
    pictures: list[Made] = []

    def finished(first: int, images: list[Image.Image]) -> None:
        made = [
            Made(image, settings_of(base, request, prompt, image, seed, studio.context))
            for image, seed in zip(images, seeds[first : first + len(images)], strict=True)
        ]
        if keep:
            keep(first, made)
        pictures.extend(made)

    try:
        draw(base, [prompt] * len(seeds), seeds, request, line, on_images=finished)
    except Stopped:
        if not pictures:
            raise
        notes = [f"Stopped: {len(pictures)} of {len(seeds)} pictures were finished.", *notes]
    return Result(pictures, notes)


def draw(
    base: Any,
    prompts: Sequence[str],
    seeds: Sequence[int],
    request: PictureRequest,
    line: Line,
    *,
    on_step: Callable[[int, int], None] | None = None,
    on_images: Callable[[int, list[Image.Image]], None] | None = None,
    watched: bool = True,
) -> list[Image.Image]:
    """`sample` with the request's settings, followed and stopped by `line`; `watched`: unfinished pictures too."""
    from symdream.diffusion.sampling import sample

    width, height = request.width or base.resolution, request.height or base.resolution
    check_size(base, width, height)
    return sample(
        base,
        prompts,
        seeds,
        steps=request.steps,
        guidance=request.guidance,
        negative_prompt=request.negative_prompt,
        sampler=request.sampler,
        width=width,
        height=height,
        batch_size=max(1, min(4, BATCH_PIXELS // (width * height))),
        on_step=on_step or line.on_step,
        on_images=on_images,
        watch=line.watch if watched else None,
        stop=line.stop.is_set,
    )


def settings_of(
    base: Any, request: PictureRequest, prompt: str, image: Image.Image, seed: int, context: Context
) -> dict[str, Any]:
    """What a picture's file says of how it was made: the keys of symdream.diffusion.png, and `adapters`."""
    worn = [entry_of(context, x.path, x.weight) for x in request.adapters]
    one = {"adapter": worn[0]["name"], "weight": worn[0]["weight"]} if len(worn) == 1 else {}
    return {
        "prompt": prompt,
        "negative_prompt": request.negative_prompt,
        "seed": seed,
        "steps": request.steps or base.defaults["steps"],
        "guidance": guidance_of(base, request),
        "sampler": request.sampler,
        "width": image.width,
        "height": image.height,
        "base": base.identity,
        "adapters": worn,
        **one,
    }
