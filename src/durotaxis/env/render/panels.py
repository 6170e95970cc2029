"""The parts around the colony: layout, substrate, goal, scale bar, colour bar, legend, attention strip."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as Images
from PIL import ImageDraw as Pens
from PIL.Image import Image
from PIL.ImageDraw import ImageDraw

from durotaxis.env.render import canvas
from durotaxis.env.render.canvas import RGB, Point
from durotaxis.env.render.scene import OLD_AGE, Frame, Scene, Style

SUPERSAMPLE = 2
Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Layout:
    """Places in supersampled pixels, y downwards."""

    unit: float  # one pixel of a picture 720 wide
    text: int  # height of letters
    canvas: tuple[int, int]
    map: Box  # the substrate
    scale: float  # pixels per µm
    legend: float  # y of the legend's centre
    strip: Box | None  # the attention strip

    def to_pixels(self, position: np.ndarray) -> Point:
        """The place of a position [2] in µm."""
        left, _, _, bottom = self.map
        return left + float(position[0]) * self.scale, bottom - float(position[1]) * self.scale


def plan(scene: Scene, style: Style) -> Layout:
    """Where everything goes in a picture of `style.width` pixels; the height follows."""
    wide = style.width * SUPERSAMPLE
    unit = wide / 720
    text = round(max(14.5 * unit, 11.5 * SUPERSAMPLE))
    margin = 14 * unit
    left, top = margin, 2.3 * text
    room = wide - 2 * margin - 10 * unit - 14 * unit - 2.6 * text
    scale = min(room / scene.size[0], 0.9 * room / scene.size[1])
    left += (room - scale * scene.size[0]) / 2
    right, bottom = left + scale * scene.size[0], top + scale * scene.size[1]
    legend = bottom + 1.3 * text
    end = legend + 1.2 * text
    strip = None
    if scene.ptms:
        names = max(canvas.font(text).getlength(name) for name in scene.ptms)
        deep = max(4.0, 1.35 * len(scene.ptms)) * text
        start = end + 1.3 * text
        strip = (round(margin), round(start), round(wide - margin - names - 4.6 * text), round(start + deep))
        end = start + deep + margin
    high = SUPERSAMPLE * math.ceil(end / SUPERSAMPLE)
    frame = (round(left), round(top), round(right), round(bottom))
    return Layout(unit, text, (wide, high), frame, scale, legend, strip)


def still(layout: Layout, scene: Scene, style: Style) -> Image:
    """What every frame shares: substrate, goal, scale bar, colour bar, legend."""
    picture = Images.new("RGB", layout.canvas, canvas.PAPER)
    pen = Pens.Draw(picture, "RGBA")
    left, top, right, bottom = layout.map
    field = Images.fromarray(scene.stiffness.astype(np.float32))
    stiffness = np.asarray(field.resize((right - left, bottom - top), Images.Resampling.BILINEAR))
    low, high = _stiffness_range(scene)
    picture.paste(Images.fromarray(canvas.ground_colours((stiffness - low) / (high - low))), (left, top))
    pen.rectangle(layout.map, outline=canvas.GREY, width=round(layout.unit))
    _goal(pen, layout, scene)
    _scale_bar(pen, layout, scene)
    _colour_bar(picture, layout, low, high)
    _legend(pen, layout, scene, style)
    return picture


def _stiffness_range(scene: Scene) -> tuple[float, float]:
    low, high = float(scene.stiffness.min()), float(scene.stiffness.max())
    return (low, high) if high - low > 1e-6 * high else (0.5 * low, 1.5 * high)


def _goal(pen: ImageDraw, layout: Layout, scene: Scene) -> None:
    """The line at distance `goal` along `direction` from the substrate's rear, cut to the substrate."""
    if scene.goal is None:
        return
    width, height = scene.size
    along = np.array([math.cos(scene.direction), math.sin(scene.direction)])
    corners = np.array([(0, 0), (width, 0), (width, height), (0, height)], dtype=float)
    reach = corners @ along - (corners @ along).min() - scene.goal
    ends = []
    for a in range(4):
        b = (a + 1) % 4
        if reach[a] * reach[b] < 0:
            ends.append(corners[a] + (corners[b] - corners[a]) * reach[a] / (reach[a] - reach[b]))
    if len(ends) == 2:
        start, end = layout.to_pixels(ends[0]), layout.to_pixels(ends[1])
        canvas.dashes(pen, start, end, canvas.PAPER, 4.5 * layout.unit, 14 * layout.unit)
        canvas.dashes(pen, start, end, canvas.INK, 2.2 * layout.unit, 14 * layout.unit)


def _scale_bar(pen: ImageDraw, layout: Layout, scene: Scene) -> None:
    unit, text = layout.unit, layout.text
    left, _, _, bottom = layout.map
    length = canvas.nice_length(scene.size[0])
    x, y = left + 12 * unit, bottom - 12 * unit
    pen.rectangle((x, y - 4 * unit, x + length * layout.scale, y), fill=canvas.INK)
    pen.text((x, y - 8 * unit), f"{length:g} µm", canvas.INK, canvas.font(text), "ls")


def _colour_bar(picture: Image, layout: Layout, low: float, high: float) -> None:
    unit, text = layout.unit, layout.text
    _, top, right, bottom = layout.map
    x, wide, high_pixels = right + round(10 * unit), round(13 * unit), bottom - top
    levels = np.linspace(1.0, 0.0, high_pixels)[:, None].repeat(wide, 1)
    picture.paste(Images.fromarray(canvas.ground_colours(levels)), (x, top))
    pen = Pens.Draw(picture)
    pen.rectangle((x, top, x + wide, bottom), outline=canvas.GREY, width=round(unit))
    for value in canvas.nice_ticks(low, high):
        y = bottom - (value - low) / (high - low) * high_pixels
        pen.line((x + wide, y, x + wide + 4 * unit, y), fill=canvas.GREY, width=round(unit))
        y = min(max(y, top + 0.4 * text), bottom - 0.4 * text)
        pen.text((x + wide + 7 * unit, y), f"{value:g}", canvas.INK, canvas.font(text), "lm")
    pen.text((x, top - 0.45 * text), "kPa", canvas.INK, canvas.font(text), "ls")


def _legend(pen: ImageDraw, layout: Layout, scene: Scene, style: Style) -> None:
    unit, text, y = layout.unit, layout.text, layout.legend
    plain = {"newborn": False, "marked": False, "deleted": False}
    nodes: list[tuple[str, RGB, dict[str, bool]]] = [
        ("newborn", canvas.REST, {**plain, "newborn": True}),
        ("marked", canvas.REST, {**plain, "marked": True}),
    ]
    if style.colour_by == "kind":
        nodes = [
            ("rest", canvas.REST, plain),
            ("spawn", canvas.SPAWN, plain),
            ("delete", canvas.DELETE, {**plain, "deleted": True}),
            *nodes,
        ]
    else:
        nodes = [("age 0", canvas.REST, plain), (f"{OLD_AGE}+ steps", canvas.OLD, plain), *nodes]
    letters = canvas.font(text)
    x = layout.map[0] + 6 * unit
    for name, colour, state in nodes:
        canvas.node(pen, (x, y), 1.1 * unit, colour, **state)
        pen.text((x + 11 * unit, y), name, canvas.INK, letters, "lm")
        x += 29 * unit + letters.getlength(name)
    pen.line((x - 6 * unit, y, x + 14 * unit, y), fill=canvas.TRAIL, width=round(2.2 * unit))
    canvas.diamond(pen, (x + 9 * unit, y), 6 * unit, canvas.TRAIL, 1.6 * unit)
    pen.text((x + 20 * unit, y), "centroid", canvas.INK, letters, "lm")
    x += 38 * unit + letters.getlength("centroid")
    if scene.goal is not None:
        canvas.dashes(pen, (x, y), (x + 24 * unit, y), canvas.INK, 2.2 * unit, 5 * unit)
        pen.text((x + 30 * unit, y), "goal", canvas.INK, letters, "lm")


def header(pen: ImageDraw, layout: Layout, scene: Scene, frame: Frame, remark: str = "") -> None:
    """Title, remark, number of nodes, step and time; a title too long for the room is shortened."""
    text, (left, top, right, _) = layout.text, layout.map
    y = top - 0.6 * text
    hours = frame.step * scene.minutes_per_step / 60
    said = f"{frame.note}  ·  " if frame.note else ""
    said += f"{remark}  ·  " if remark else ""
    said += f"{int(frame.alive.sum())} nodes  ·  step {frame.step}  ·  {hours:.1f} h"
    letters, bold = canvas.font(text), canvas.font(text, bold=True)
    pen.text((right, y), said, canvas.INK, letters, "rs")
    room = right - left - letters.getlength(said) - text
    title = scene.title
    while title and bold.getlength(title) > room:
        title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
    pen.text((left, y), title, canvas.INK, bold, "ls")


def strip(
    pen: ImageDraw, layout: Layout, box: Box, scene: Scene, frames: Sequence[Frame], num_frames: int
) -> None:
    """Attention over time as stacked bands up to the last of `frames`, with the latest values beside it.

    Args:
        num_frames: of the whole episode, which fills the width.
    """
    left, top, right, bottom = box
    unit, text = layout.unit, layout.text
    letters = canvas.font(text)
    pen.text((left, top - 0.5 * text), "attention over time", canvas.INK, letters, "ls")
    pen.rectangle(box, fill=canvas.PALE)
    edges = np.linspace(left, right, num_frames + 1).round()
    colours = [canvas.CATEGORIES[k % len(canvas.CATEGORIES)] for k in range(len(scene.ptms))]
    for i, frame in enumerate(frames):
        if frame.attention is None:
            continue
        shares = np.cumsum([0.0, *frame.attention]) / frame.attention.sum()
        cuts = (bottom - shares * (bottom - top)).round()
        for k, colour in enumerate(colours):
            pen.rectangle((edges[i], cuts[k + 1], edges[i + 1], cuts[k]), fill=colour)
    pen.rectangle(box, outline=canvas.GREY, width=round(unit))
    now = next((frame.attention for frame in reversed(frames) if frame.attention is not None), None)
    step = (bottom - top) / len(colours)
    for k, colour in enumerate(colours):
        y = bottom - (k + 0.5) * step
        x = right + 12 * unit
        pen.rectangle((x, y - 0.35 * text, x + 0.7 * text, y + 0.35 * text), fill=colour)
        pen.text((x + 1.1 * text, y), scene.ptms[k], canvas.INK, letters, "lm")
        if now is not None:
            pen.text((layout.canvas[0] - 14 * unit, y), f"{now[k]:.2f}", canvas.INK, letters, "rm")
