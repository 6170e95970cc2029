"""Drawing primitives of the renderer: colours, fonts, symbols, hull and GIF palette. Knows no colonies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from PIL import Image as Images
from PIL import ImageFont
from PIL.Image import Image
from PIL.ImageDraw import ImageDraw
from PIL.ImageFont import FreeTypeFont

RGB = tuple[int, int, int]
Point = tuple[float, float]

INK: RGB = (33, 39, 49)
GREY: RGB = (104, 112, 122)
PALE: RGB = (222, 226, 231)
PAPER: RGB = (255, 255, 255)
REST: RGB = (250, 250, 250)
SPAWN: RGB = (0, 114, 178)
DELETE: RGB = (213, 94, 0)
MARK: RGB = (190, 30, 130)
OLD: RGB = (0, 50, 95)
TRAIL: RGB = (33, 39, 49)
CATEGORIES: tuple[RGB, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (150, 150, 150),
)
"""The colours of Okabe and Ito (2008), for the PTMs; longer lists start again."""

_LIGHTEN = 0.45  # share of white in the background, so that nodes stand out on every stiffness


def ground_colours(level: np.ndarray) -> np.ndarray:
    """Colours of stiffness levels in [0, 1]: viridis, lightened; [...] float -> [..., 3] uint8."""
    table = _ground_table()
    return table[(np.clip(level, 0.0, 1.0) * (len(table) - 1)).round().astype(int)]


@cache
def _ground_table() -> np.ndarray:
    rgb = matplotlib.colormaps["viridis"](np.linspace(0.05, 1.0, 112))[:, :3]
    return ((rgb + (1.0 - rgb) * _LIGHTEN) * 255).round().astype(np.uint8)


@cache
def font(size: int, bold: bool = False) -> FreeTypeFont:
    """DejaVu Sans, which matplotlib carries, at a size in pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}", size)


def mix(first: RGB, second: RGB, share: float) -> RGB:
    """The colour `share` of the way from `first` to `second`."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def disc(pen: ImageDraw, at: Point, radius: float, fill: RGB | None, line: RGB, width: float) -> None:
    """A circle whose outline lies inside its radius; no fill leaves a ring."""
    x, y = at
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=line, width=round(width))


def dot(pen: ImageDraw, at: Point, radius: float, fill: RGB) -> None:
    """A small disc without an outline."""
    x, y = at
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def node(
    pen: ImageDraw, at: Point, unit: float, fill: RGB, newborn: bool, marked: bool, deleted: bool
) -> None:
    """A node: a disc; small when newborn, inside a ring when marked, crossed when it deletes itself."""
    radius = (3.2 if newborn else 4.6) * unit
    if marked:
        disc(pen, at, 7.0 * unit, None, MARK, 2.0 * unit)
    disc(pen, at, radius, fill, INK, 1.3 * unit)
    if deleted:
        x, y = at
        reach = 0.5 * radius
        for sign in (-1, 1):
            ends = (x - reach, y - sign * reach, x + reach, y + sign * reach)
            pen.line(ends, fill=PAPER, width=round(1.4 * unit))


def diamond(pen: ImageDraw, at: Point, radius: float, fill: RGB, width: float) -> None:
    """A square on its corner, with a white outline."""
    x, y = at
    corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
    pen.polygon(corners, fill=fill, outline=PAPER, width=round(width))


def region(pen: ImageDraw, corners: np.ndarray, unit: float) -> None:
    """A translucent polygon [n,2]; fewer than three corners enclose nothing."""
    if len(corners) > 2:
        places = [(float(x), float(y)) for x, y in corners]
        pen.polygon(places, fill=(*PAPER, 70), outline=(*INK, 130), width=round(unit))


def dashes(pen: ImageDraw, start: Point, end: Point, colour: RGB, width: float, length: float) -> None:
    """A dashed straight line that begins and ends with a dash."""
    distance = math.dist(start, end)
    num = max(1, 2 * round(distance / length / 2) + 1)
    cuts = [
        (start[0] + (end[0] - start[0]) * i / num, start[1] + (end[1] - start[1]) * i / num)
        for i in range(num + 1)
    ]
    for i in range(0, num, 2):
        pen.line((cuts[i], cuts[i + 1]), fill=colour, width=round(width))


def nice_length(extent: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is at most a quarter of `extent`."""
    power = 10.0 ** math.floor(math.log10(extent / 4))
    return max(step * power for step in (1, 2, 5) if step * power <= extent / 4)


def nice_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Round numbers within [low, high], at most `most`."""
    values = MaxNLocator(nbins=most - 1, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(v) for v in values if low - 1e-9 <= v <= high + 1e-9]


def hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of [n,2] points, counter-clockwise (Andrew's monotone chain)."""
    ordered = np.unique(points, axis=0)
    if len(ordered) < 3:
        return ordered

    def chain(candidates: np.ndarray) -> list[np.ndarray]:
        kept: list[np.ndarray] = []
        for point in candidates:
            while len(kept) > 1 and _turn(kept[-2], kept[-1], point) <= 0:
                kept.pop()
            kept.append(point)
        return kept[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))


def shared_palette(pictures: Sequence[Image]) -> Image:
    """A palette of 255 colours: those of the ground exactly, and the most varied ones of `pictures`.

    One palette for all frames lets a GIF store only the pixels that change; the free index marks the rest.
    """
    width, height = pictures[0].size
    sheet = Images.new("RGB", (width, height * len(pictures)))
    for row, picture in enumerate(pictures):
        sheet.paste(picture, (0, row * height))
    ground = _ground_table().reshape(-1).tolist()
    rest = sheet.quantize(colors=255 - len(ground) // 3, method=Images.Quantize.MAXCOVERAGE)
    colours: list[Any] = [*ground, *(rest.getpalette() or [])][: 255 * 3]
    palette = Images.new("P", (1, 1))
    palette.putpalette(colours + colours[-3:] * (256 - len(colours) // 3))
    return palette
