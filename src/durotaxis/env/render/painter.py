"""Draws one colony: a still background, and the colony painted anew for every frame."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
from PIL import ImageDraw as Pens
from PIL.Image import Image
from PIL.ImageDraw import ImageDraw

from durotaxis.env.render import canvas, panels
from durotaxis.env.render.canvas import RGB, Point
from durotaxis.env.render.scene import OLD_AGE, Frame, Scene, Style, check
from durotaxis.env.types import Kind

DEFAULT_STYLE = Style()
CROWD = 600
"""Colonies of more nodes are drawn as dots without edges, and the picture says so."""
_KIND_COLOURS = {int(Kind.REST): canvas.REST, int(Kind.SPAWN): canvas.SPAWN, int(Kind.DELETE): canvas.DELETE}


def draw(frame: Frame, scene: Scene, style: Style = DEFAULT_STYLE, history: Sequence[Frame] = ()) -> Image:
    """One picture of a colony.

    Args:
        frame: the step to draw.
        scene: substrate, goal and names.
        style: width, colours, hull.
        history: earlier frames, oldest first, for the centroid's trail and the attention strip.

    Returns:
        An RGB picture, `style.width` pixels wide.

    Raises:
        UserError: a width under 480, a stiffness map that is not a finite matrix, arrays that do not fit.
    """
    return Painter([*history, frame], scene, style).paint(len(history))


@final
class Painter:
    """Paints the frames of one episode."""

    def __init__(self, frames: Sequence[Frame], scene: Scene, style: Style) -> None:
        check(frames, scene, style)
        self._frames, self._scene, self._style = frames, scene, style
        self._layout = panels.plan(scene, style)
        self._trail = [self._layout.to_pixels(f.position[f.alive].mean(0)) for f in frames if f.alive.any()]
        self._lived = np.cumsum([bool(f.alive.any()) for f in frames])
        self._still = panels.still(self._layout, scene, style)

    def paint(self, index: int) -> Image:
        """The picture of frame `index`."""
        picture = self._still.copy()
        pen = Pens.Draw(picture, "RGBA")
        frame = self._frames[index]
        self._paint_colony(pen, frame, self._trail[: self._lived[index]])
        is_crowd = int(frame.alive.sum()) > CROWD
        panels.header(pen, self._layout, self._scene, frame, "drawn as dots" if is_crowd else "")
        if self._layout.strip is not None:
            panels.strip(
                pen,
                self._layout,
                self._layout.strip,
                self._scene,
                self._frames[: index + 1],
                len(self._frames),
            )
        return picture.reduce(panels.SUPERSAMPLE)

    def _paint_colony(self, pen: ImageDraw, frame: Frame, trail: list[Point]) -> None:
        unit = self._layout.unit
        slots = np.flatnonzero(frame.alive)
        if len(trail) > 1:
            pen.line(trail, fill=canvas.PAPER, width=round(4.5 * unit), joint="curve")
            pen.line(trail, fill=canvas.TRAIL, width=round(2.2 * unit), joint="curve")
        places = {int(n): self._layout.to_pixels(frame.position[n]) for n in slots}
        if self._style.hull and len(slots) > 2:
            canvas.region(pen, canvas.hull(np.array(list(places.values()))), unit)
        is_crowd = len(slots) > CROWD
        if not is_crowd:
            for n in slots[frame.parent[slots] >= 0]:
                ends = (places[int(frame.parent[n])], places[int(n)])
                pen.line(ends, fill=canvas.INK, width=round(1.6 * unit))
        if len(slots) and not is_crowd:
            canvas.diamond(pen, trail[-1], 6 * unit, canvas.TRAIL, 1.6 * unit)
        for n in slots[np.argsort(self._prominence(frame)[slots], kind="stable")]:
            if is_crowd:
                canvas.dot(pen, places[int(n)], 1.6 * unit, _node_colour(frame, int(n), self._style))
            else:
                self._paint_node(pen, places[int(n)], frame, int(n))
        if len(slots) and is_crowd:
            canvas.diamond(pen, trail[-1], 6 * unit, canvas.TRAIL, 1.6 * unit)

    def _prominence(self, frame: Frame) -> np.ndarray:
        """Sort key: what is rarer is painted later, on top."""
        key = np.zeros(len(frame.alive))
        if frame.marked is not None:
            key += 2 * frame.marked
        return key if frame.kind is None else key + (frame.kind == Kind.DELETE)

    def _paint_node(self, pen: ImageDraw, at: Point, frame: Frame, n: int) -> None:
        unit = self._layout.unit
        fill = _node_colour(frame, n, self._style)
        newborn = frame.newborn is not None and bool(frame.newborn[n])
        marked = frame.marked is not None and bool(frame.marked[n])
        by_kind = self._style.colour_by == "kind"
        deleted = by_kind and frame.kind is not None and int(frame.kind[n]) == Kind.DELETE
        canvas.node(pen, at, unit, fill, newborn, marked, deleted)


def _node_colour(frame: Frame, n: int, style: Style) -> RGB:
    if style.colour_by == "kind":
        return canvas.REST if frame.kind is None else _KIND_COLOURS[int(frame.kind[n])]
    age = 0 if frame.age is None else min(int(frame.age[n]), OLD_AGE)
    return canvas.mix(canvas.REST, canvas.OLD, age / OLD_AGE)
