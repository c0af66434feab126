"""Small ICC profiles of RGB and gray spaces, written by hand, and what they mean, computed without a colour library."""

from __future__ import annotations

import struct

import numpy as np

# Colorants as profiles hold them: XYZ of red, green and blue under D50.
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
DISPLAY_P3 = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
WHITE = (0.9642, 1.0, 0.8249)
ADOBE_GAMMA = 2.19921875


def profile(colorants, gamma: float | None = None) -> bytes:
    """An RGB profile; gamma None: the curve of sRGB."""
    curve = _curve(gamma)
    tags = [(name, _xyz(value)) for name, value in zip((b"rXYZ", b"gXYZ", b"bXYZ"), colorants, strict=True)]
    return _profile(b"RGB ", [*tags, *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC"))])


def gray_profile(gamma: float) -> bytes:
    return _profile(b"GRAY", [(b"kTRC", _curve(gamma))])


def in_srgb(pixels: np.ndarray, colorants, gamma: float | None = None) -> np.ndarray:
    """uint8 (…, 3) of a space as floats of sRGB: out of its curve, over XYZ, into sRGB's curve, cut off at the ends."""
    values = pixels / 255
    linear = _linear(values) if gamma is None else values**gamma
    linear = np.clip(linear @ np.array(colorants) @ np.linalg.inv(np.array(SRGB)), 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def _linear(values: np.ndarray) -> np.ndarray:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def _fixed(values) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def _xyz(values) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve(gamma: float | None) -> bytes:
    if gamma is None:
        return (
            b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
        )
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)


def _profile(space: bytes, tags) -> bytes:
    name = b"a name that says nothing\0"
    described = b"desc" + bytes(4) + struct.pack(">I", len(name)) + name + bytes(78)
    tags = [(b"desc", described), (b"wtpt", _xyz(WHITE)), *tags]
    offset, table, content = 132 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for tag, data in tags:
        table += tag + struct.pack(">II", offset + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    size = offset + len(content)
    head = struct.pack(">I4xI4s4s4s12x4s", size, 0x02400000, b"mntr", space, b"XYZ ", b"acsp")
    return (head + bytes(28) + _fixed(WHITE)).ljust(128, b"\0") + table + content
