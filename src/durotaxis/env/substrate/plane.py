"""The rectangle under the colony seen along its direction, in plain numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import final

from durotaxis.env.substrate.config import START_ACROSS, START_ALONG, SubstrateConfig

Point = tuple[float, float]
_NUM_SAMPLES = 200  # per side of the start box


@final
@dataclass(frozen=True)
class Plane:
    """A rectangle [0, width] x [0, height] and the coordinates s along and t across a direction, in µm."""

    size: Point
    along: Point  # unit vector
    origin: Point  # what to subtract from the projections so that s and t start at 0
    extent: Point  # L, M

    @classmethod
    def of(cls, config: SubstrateConfig) -> Plane:
        """The plane of a configuration."""
        # Right angles must give exact zeros: cos(pi/2) is 6e-17 in floating point.
        along = round(math.cos(config.direction), 12), round(math.sin(config.direction), 12)
        origin = _lowest(along, config.size), _lowest((-along[1], along[0]), config.size)
        return cls(config.size, along, origin, config.extent)

    def coordinates(self, point: Point) -> Point:
        """(s, t) of (x, y)."""
        (x, y), (dx, dy) = point, self.along
        return x * dx + y * dy - self.origin[0], y * dx - x * dy - self.origin[1]

    def clamped(self, coordinates: Point) -> Point:
        """The (x, y) on the rectangle nearest to (s, t)."""
        s, t = coordinates[0] + self.origin[0], coordinates[1] + self.origin[1]
        dx, dy = self.along
        x, y = s * dx - t * dy, s * dy + t * dx
        return min(max(x, 0.0), self.size[0]), min(max(y, 0.0), self.size[1])

    def breadth_between(self, first: float, last: float) -> Point:
        """The lowest and the highest t that lie on the rectangle for every s from `first` to `last`.

        There are none where the lowest is above the highest.
        """
        if 0.0 in self.along:
            return 0.0, self.extent[1]
        # The rectangle is convex: what lies on it at both ends does so all the way.
        lines = [sorted(line) for s in (first, last) for line in self._crossings(s)]
        return max(low for low, _ in lines), min(high for _, high in lines)

    @property
    def start_box(self) -> tuple[Point, Point]:
        """Lower left and upper right corner (s, t) of where nodes start, before they are clamped."""
        length, breadth = self.extent
        return (0.0, START_ACROSS[0] * breadth), (START_ALONG * length, START_ACROSS[1] * breadth)

    @property
    def start_end(self) -> float:
        """The largest s of the clamped start box."""
        (_, first), (s, last) = self.start_box
        if 0.0 in self.along:
            return s
        # It lies on the box's upper edge. Clamped, that is straight between where it crosses lines of sides.
        bends = [t for line in self._crossings(s) for t in line if first < t < last]
        return max(self.coordinates(self.clamped((s, t)))[0] for t in (first, *bends, last))

    @cached_property
    def start_outline(self) -> list[Point]:
        """The corners (x, y) of the line all around the start box, clamped onto the rectangle; closed."""
        (s0, t0), (s1, t1) = self.start_box
        corners = [(s0, t0), (s1, t0), (s1, t1), (s0, t1), (s0, t0)]
        shares = [k / _NUM_SAMPLES for k in range(_NUM_SAMPLES)]
        around = [
            self.clamped((a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share))
            for a, b in pairwise(corners)
            for share in shares
        ]
        around = [here for before, here in pairwise((around[-1], *around)) if before != here]
        turns = zip(around[-1:] + around[:-1], around, around[1:] + around[:1], strict=True)
        kept = [here for before, here, after in turns if not _is_straight(before, here, after)]
        return [*kept, kept[0]]

    @cached_property
    def goal_corners(self) -> list[Point]:
        """The corners (x, y) with the largest s: the two ends of the goal side, or one corner."""
        highest = sorted(self._corners(), key=lambda corner: self.coordinates(corner)[0])
        return highest[-2:] if 0.0 in self.along else highest[-1:]

    @cached_property
    def walls(self) -> tuple[list[Point], list[Point]]:
        """The two parts of the outline between start and goal, as lines of points (x, y).

        The start part of the outline is what the clamped start box touches, the goal is a side or a corner.
        """
        around = 2 * sum(self.size)
        goal = sorted(self._place(corner) for corner in self.goal_corners)
        if goal[-1] - goal[0] > 0.5 * around:  # a side that ends where counting starts
            goal = [goal[-1], goal[0] + around]
        first = goal[-1]
        touched = [self._place(p) for p in self.start_outline if self._is_on_outline(p)]
        starts = sorted((place - first) % around for place in touched)
        last = around - (goal[-1] - goal[0])
        return self._line(first, first + starts[0]), self._line(first + starts[-1], first + last)

    def _crossings(self, s: float) -> tuple[Point, Point]:
        """The t at which a line across a slanted way meets those of x = 0 and width, y = 0 and height."""
        (dx, dy), (width, height) = self.along, self.size
        s, t0 = s + self.origin[0], self.origin[1]
        return (
            (s * dx / dy - t0, (s * dx - width) / dy - t0),
            (-s * dy / dx - t0, (height - s * dy) / dx - t0),
        )

    def _corners(self) -> list[Point]:
        width, height = self.size
        return [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)]

    def _is_on_outline(self, point: Point) -> bool:
        return any(value in (0.0, most) for value, most in zip(point, self.size, strict=True))

    def _place(self, point: Point) -> float:
        """How far along the outline, counter-clockwise from the origin, in µm."""
        (x, y), (width, height) = point, self.size
        if y == 0.0:
            return x
        if x == width:
            return width + y
        if y == height:
            return 2 * width + height - x
        return 2 * (width + height) - y

    def _line(self, first: float, last: float) -> list[Point]:
        """The outline between two places, with the corners it passes."""
        width, height = self.size
        around = 2 * (width + height)
        corners = [
            start + turn
            for turn in (0.0, around)
            for start in (0.0, width, width + height, 2 * width + height)
        ]
        between = [place for place in corners if first < place < last]
        return [self._at(place % around) for place in (first, *between, last)]

    def _at(self, place: float) -> Point:
        width, height = self.size
        if place <= width:
            return place, 0.0
        if place <= width + height:
            return width, place - width
        if place <= 2 * width + height:
            return 2 * width + height - place, height
        return 0.0, 2 * (width + height) - place


def room_for_bridges(config: SubstrateConfig) -> Point:
    """The lowest and the highest t on the substrate along the whole of the moat's band."""
    length, width = config.extent[0], config.moat.width
    return Plane.of(config).breadth_between(0.5 * (length - width), 0.5 * (length + width))


def _lowest(direction: Point, size: Point) -> float:
    return sum(min(0.0, d * extent) for d, extent in zip(direction, size, strict=True))


def _is_straight(before: Point, here: Point, after: Point) -> bool:
    """Whether a line goes straight on in the middle one of three points."""
    (ax, ay), (bx, by) = (here[0] - before[0], here[1] - before[1]), (after[0] - here[0], after[1] - here[1])
    return abs(ax * by - ay * bx) < 1e-9 and ax * bx + ay * by > 0.0
