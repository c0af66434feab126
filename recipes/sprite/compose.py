"""Pictures and captions composed on the device: sprites over a background, nothing drawn on the host.

A scene is a handful of numbers a picture; `render` makes pixels of it and `token_ids` its caption. Both are plain
tensor operations of fixed shapes, so that a CUDA graph can hold them together with the training step that they feed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.sprite.art import SIDE, Art
from recipes.sprite.language import COLOURS, PATTERNS, STYLES, TokenTables, caption, tones

FILLED = 120 / 128  # of a sprite's side: what its longer side takes (rasterise.mjs)
TWO = 0.25  # of the pictures show two things
UNSAID = 0.1  # of the captions leave out the style; as many leave out the background
SCALES = ((0.5, 0.92), (0.36, 0.5))  # longer side of a thing as a part of the picture's: alone; one of two
TURN = 15.0  # degrees to either side
JITTER = 0.02  # of a background's tones, from 0 to 1, to either side


@dataclass
class Scene:
    """What B pictures show; (B, 2) where there may be two things, the second -1 or meaningless where there is one."""

    style: Tensor  # (B,) index into STYLES
    things: Tensor  # (B, 2) index into the composer's things
    colour: Tensor  # (B,) index into COLOURS
    pattern: Tensor  # (B,) index into PATTERNS
    scale: Tensor  # (B, 2) longer side before turning, as a part of the picture's side
    centre: Tensor  # (B, 2, 2) x and y of each thing, from -1 (left, top) to 1
    angle: Tensor  # (B, 2) radians
    flip: Tensor  # (B, 2) bool, mirrored before it is turned
    shift: Tensor  # (B, 2) of the pattern, in pictures
    size: Tensor  # (B,) of the pattern, from 0 (fine) to 1 (coarse)
    direction: Tensor  # (B,) of the stripes, radians
    jitter: Tensor  # (B, 3) added to both tones
    says_style: Tensor  # (B,) bool
    says_ground: Tensor  # (B,) bool

    def __getitem__(self, rows) -> Scene:
        return Scene(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def said_in_full(self) -> Scene:
        return replace(self, says_style=torch.ones_like(self.says_style), says_ground=torch.ones_like(self.says_ground))

    @staticmethod
    def cat(scenes: list[Scene]) -> Scene:
        return Scene(**{f.name: torch.cat([getattr(scene, f.name) for scene in scenes]) for f in fields(Scene)})


class Composer:
    """Draws scenes over one set of art, and renders them.

    art: every thing in every style. things: the words, in the order of the scenes' indices.
    Raises: ValueError if a thing lacks a style.
    """

    def __init__(self, art: Art, tokenizer, device: torch.device | str = "cpu"):
        self.device, self.things = torch.device(device), art.things
        found = {(sprite.thing, sprite.style): i for i, sprite in enumerate(art.sprites)}
        if lacking := [(thing, style) for thing in self.things for style in STYLES if (thing, style) not in found]:
            raise ValueError(f"{len(lacking)} sprites are not there, {lacking[0]} for one")
        self.sprite_of = torch.tensor([[found[thing, style] for style in STYLES] for thing in self.things]).to(device)
        self.tables = TokenTables.of(tokenizer, self.things).to(self.device)
        self.tones = tones().to(device)
        sharp = art.pixels.to(device).float() / 255
        # Premultiplied: else the colour of clear pixels bleeds in at every edge that is scaled.
        sharp = torch.cat([sharp[:, :3] * sharp[:, 3:], sharp[:, 3:]], dim=1)
        smooth = F.interpolate(F.avg_pool2d(sharp, 2), scale_factor=2, mode="bilinear")
        # The second is for small scales, which would skip pixels of the first.
        self.levels = (torch.stack([sharp, smooth]) * 255).round().to(torch.uint8)  # (2, S, 4, 128, 128)
        # Made once: a recording may not copy from the host.
        self._sides = torch.tensor([-0.47, 0.47], device=self.device)
        steps = (torch.arange(SIDE, device=self.device) + 0.5) / SIDE
        self.y, self.x = torch.meshgrid(steps, steps, indexing="ij")

    def draw(
        self, count: int, *, two: float = TWO, unsaid: float = UNSAID, generator: torch.Generator | None = None
    ) -> Scene:
        """Random scenes; the generator is of the composer's device (None: the device's own)."""

        def rand(*shape: int) -> Tensor:
            return torch.rand(count, *shape, generator=generator, device=self.device)

        def pick(number: int) -> Tensor:
            return (rand() * number).long().clamp(max=number - 1)

        first = pick(len(self.things))
        another = (first + 1 + pick(max(1, len(self.things) - 1))) % len(self.things)
        both = rand() < two
        (low, high), (low2, high2) = SCALES
        scale = torch.where(both[:, None], low2 + (high2 - low2) * rand(2), low + (high - low) * rand(2))
        alone = (2 * rand(1, 2) - 1).expand(-1, 2, -1) * (1 - scale[..., None])
        side = torch.where(rand() < 0.5, 1.0, -1.0)[:, None] * self._sides
        beside = torch.stack([side + 0.06 * (2 * rand(2) - 1), 0.35 * (2 * rand(2) - 1)], dim=-1)
        return Scene(
            style=pick(len(STYLES)),
            things=torch.stack([first, torch.where(both, another, -1)], dim=1),
            colour=pick(len(COLOURS)),
            pattern=pick(len(PATTERNS)),
            scale=scale,
            centre=torch.where(both[:, None, None], beside, alone),
            angle=math.radians(TURN) * (2 * rand(2) - 1),
            flip=rand(2) < 0.5,
            shift=rand(2),
            size=rand(),
            direction=math.pi * rand(),
            jitter=JITTER * (2 * rand(3) - 1),
            says_style=rand() >= unsaid,
            says_ground=rand() >= unsaid,
        )

    def render(self, scene: Scene) -> Tensor:
        """The pictures, (B, 3, 128, 128) fp32 from -1 to 1."""
        picture = self._ground(scene)
        second = scene.things[:, 1] >= 0
        for which in range(2):
            shown = torch.ones_like(second) if which == 0 else second
            layer = self._layer(scene, which, level=second.long()) * shown.view(-1, 1, 1, 1)
            picture = picture * (1 - layer[:, 3:]) + layer[:, :3]
        return picture * 2 - 1

    def token_ids(self, scene: Scene) -> Tensor:
        """The captions as the text tower reads them, (B, 77)."""
        return self.tables.token_ids(
            scene.style, scene.things, scene.colour, scene.pattern, scene.says_style, scene.says_ground
        )

    def captions(self, scene: Scene) -> list[str]:
        """The captions as text; waits for the device."""
        names = ("style", "things", "colour", "pattern", "says_style", "says_ground")
        rows = zip(*(getattr(scene, name).tolist() for name in names), strict=True)
        return [
            caption(
                STYLES[style] if says_style else None,
                [self.things[i] for i in things if i >= 0],
                (COLOURS[colour], PATTERNS[pattern]) if says_ground else None,
            )
            for style, things, colour, pattern, says_style, says_ground in rows
        ]

    def _layer(self, scene: Scene, which: int, level: Tensor) -> Tensor:
        """One thing of each picture where it lies, premultiplied RGBA (B, 4, 128, 128)."""
        sprite = self.levels[level, self.sprite_of[scene.things[:, which].clamp(min=0), scene.style]].float() / 255
        # From a picture's point p to the sprite's: mirror · turn back · (p - centre) / scale.
        scale = scene.scale[:, which] / FILLED
        cos, sin = scene.angle[:, which].cos() / scale, scene.angle[:, which].sin() / scale
        mirror = torch.where(scene.flip[:, which], -1.0, 1.0)
        x, y = scene.centre[:, which].unbind(-1)
        back = torch.stack(
            [
                torch.stack([mirror * cos, mirror * sin, -mirror * (cos * x + sin * y)], dim=-1),
                torch.stack([-sin, cos, sin * x - cos * y], dim=-1),
            ],
            dim=1,
        )
        grid = F.affine_grid(back, [len(sprite), 4, SIDE, SIDE], align_corners=False)
        return F.grid_sample(sprite, grid, align_corners=False)

    def _ground(self, scene: Scene) -> Tensor:
        """The backgrounds from 0 to 1, (B, 3, 128, 128): recipes/subjects/backgrounds.py with its sizes, on the device.

        Edges are one pixel soft: amounts come of the distance to the nearest edge, in pixels.
        """

        def column(value: Tensor) -> Tensor:
            return value.view(-1, 1, 1)

        def stripes(along: Tensor, width: Tensor) -> Tensor:
            """1 on every other stripe: [0, width), [2 width, 3 width), ..."""
            from_middle = ((along / width + 0.5) % 2 - 1).abs()
            return ((0.5 - from_middle) * width * SIDE + 0.5).clamp(0, 1)

        x, y = self.x + column(scene.shift[:, 0]), self.y + column(scene.shift[:, 1])
        width = column(20 + 12 * scene.size) / 256
        striped = stripes(x * column(scene.direction.cos()) + y * column(scene.direction.sin()), width)
        across, down = stripes(x, width), stripes(y, width)
        checkered = across * down + (1 - across) * (1 - down)
        pitch = column(34 + 14 * scene.size) / 256
        row = (y / (pitch / 2)).floor()
        near_x = (x + (row % 2) * pitch / 2) % pitch - pitch / 2
        near_y = y % (pitch / 2) - pitch / 4
        dotted = ((0.2 * pitch - (near_x**2 + near_y**2).sqrt()) * SIDE + 0.5).clamp(0, 1)
        patterns = torch.stack([torch.zeros_like(striped), striped, checkered, dotted])
        amount = patterns[scene.pattern, torch.arange(len(scene.pattern), device=self.device)].unsqueeze(1)
        tones = (self.tones[scene.colour] + scene.jitter[:, None]).clamp(0, 1)[..., None, None]  # (B, 2, 3, 1, 1)
        return tones[:, 0] * (1 - amount) + tones[:, 1] * amount
