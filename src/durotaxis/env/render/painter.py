"""Draws and films one colony: a still background, and the colony painted anew for every frame."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Images
from PIL import ImageDraw as Pens
from PIL.Image import Image
from PIL.ImageDraw import ImageDraw

from durotaxis.core.errors import UserError
from durotaxis.env.render import canvas, panels
from durotaxis.env.render.canvas import RGB, Point
from durotaxis.env.render.scene import OLD_AGE, Frame, Scene, Style, check
from durotaxis.env.types import Kind

DEFAULT_STYLE = Style()
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
    return _Painter([*history, frame], scene, style).paint(len(history))


def film(
    frames: Sequence[Frame],
    scene: Scene,
    path: str | Path,
    style: Style = DEFAULT_STYLE,
    frames_per_second: float | None = None,
    max_frames: int = 150,
) -> None:
    """Write an episode as an animated GIF, whole or not at all.

    Args:
        frames: the steps in order.
        scene: substrate, goal and names.
        path: a file ending in `.gif`; its folders are made.
        style: width, colours, hull.
        frames_per_second: at most 50, the fastest that viewers honour; by default such that the film lasts
            8 seconds, but within 5 and 15.
        max_frames: longer episodes are thinned evenly; the first and last frames stay, and the trail and
            the attention strip still use every step.

    Raises:
        UserError: no frames, another file ending, a place that cannot be written, or what `draw` refuses.
    """
    path = Path(path)
    if not frames:
        raise UserError("film: there are no frames to draw")
    if path.suffix.lower() != ".gif":
        raise UserError(f"film: {path} must end in .gif")
    num_pictures = min(len(frames), max_frames)
    rate = min(max(num_pictures / 8.0, 5.0), 15.0) if frames_per_second is None else frames_per_second
    if not 0 < rate <= 50 or max_frames < 2:
        raise UserError("film: frames_per_second must be in (0, 50] and max_frames at least 2")
    painter = _Painter(frames, scene, style)
    chosen = _spread(len(frames), num_pictures)
    palette = canvas.shared_palette([painter.paint(chosen[i]) for i in _spread(num_pictures, 6)])
    pictures = [painter.paint(i).quantize(palette=palette, dither=Images.Dither.NONE) for i in chosen]
    pause = max(20, round(100 / rate) * 10)  # milliseconds; GIF counts in hundredths
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures[0].save(
            partial,
            format="GIF",
            save_all=True,
            append_images=pictures[1:],
            duration=[pause] * (len(pictures) - 1) + [2000],
            loop=0,
        )
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"film: cannot write {path}: {error.strerror or error}") from error
    finally:
        if partial.is_file():
            partial.unlink()


def _spread(length: int, count: int) -> list[int]:
    """`count` indices evenly over range(length), both ends among them."""
    return [round(i * (length - 1) / max(1, count - 1)) for i in range(count)]


class _Painter:
    """Paints the frames of one episode; final."""

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
        panels.header(pen, self._layout, self._scene, frame)
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
        for n in slots:
            if frame.parent[n] >= 0:
                ends = (places[int(frame.parent[n])], places[int(n)])
                pen.line(ends, fill=canvas.INK, width=round(1.6 * unit))
        if len(slots):
            canvas.diamond(pen, trail[-1], 6 * unit, canvas.TRAIL, 1.6 * unit)
        for n in slots[np.argsort(self._prominence(frame)[slots], kind="stable")]:
            self._paint_node(pen, places[int(n)], frame, int(n))

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
