"""The substrate, one point at a time, in plain Python floats, written apart from the library.

Drawn numbers (bridges, discs, noise lattice, random laws) are read from the batch; everything else comes from
the configuration, and maps from their files.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property

from PIL import Image

from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import EXPONENTIAL, LINEAR, MAP, STEP, UNIFORM, Substrate

KIND_NAMES = {UNIFORM: "uniform", LINEAR: "linear", EXPONENTIAL: "exponential", STEP: "step", MAP: "map"}


@dataclass(frozen=True)
class Moat:
    width: float
    stiffness: float
    bridges: tuple[float, ...]  # places across of their middles
    bridge_width: float

    def contains(self, s, t, length, breadth):
        if abs(s - length / 2) > self.width / 2:
            return False
        return all(abs(t - bridge) > self.bridge_width / 2 for bridge in self.bridges)

    def margin(self, s, t, length, breadth):
        """Distance to the nearest line on which something may change."""
        lines = [abs(abs(s - length / 2) - self.width / 2)]
        return min(lines + [abs(abs(t - bridge) - self.bridge_width / 2) for bridge in self.bridges])


@dataclass(frozen=True)
class Stripes:
    lane_width: float
    stiffness: float
    shift_every: float
    gap: float
    first: float  # s before which there are none

    def contains(self, s, t, length, breadth):
        if s < self.first:
            return False
        nearest = round(s / self.shift_every) * self.shift_every
        if abs(s - nearest) <= self.gap / 2:
            return False
        lane = math.floor((t - breadth / 2) / self.lane_width + 0.5)
        return (lane + math.floor(s / self.shift_every)) % 2 == 1

    def margin(self, s, t, length, breadth):
        lane = (t - breadth / 2) / self.lane_width + 0.5
        nearest = round(s / self.shift_every) * self.shift_every
        across = abs(lane - round(lane)) * self.lane_width
        begins = abs(s - self.first) if self.first else math.inf  # s = 0 lies in a gap
        return min(across, abs(abs(s - nearest) - self.gap / 2), begins)


@dataclass(frozen=True)
class Patches:
    stiffness: float
    discs: tuple[tuple[float, float, float], ...]  # s, t, radius

    def contains(self, s, t, length, breadth):
        return any(math.dist((s, t), (a, b)) < radius for a, b, radius in self.discs)

    def margin(self, s, t, length, breadth):
        return min(abs(math.dist((s, t), (a, b)) - radius) for a, b, radius in self.discs)


@dataclass(frozen=True)
class Noise:
    amplitude: float
    length: float
    values: list[list[float]]

    def field(self, s, t):
        """z and its derivatives along and across, by the formula of the interpolation."""
        i, j = (
            min(max(math.floor(v / self.length), 0), n - 2)
            for v, n in ((s, len(self.values)), (t, len(self.values[0])))
        )
        f, g = s / self.length - i, t / self.length - j
        z, along, across = 0.0, 0.0, 0.0
        for di in (0, 1):
            for dj in (0, 1):
                value = self.values[i + di][j + dj]
                wf, dwf = weight(f if di else 1 - f)
                wg, dwg = weight(g if dj else 1 - g)
                z += value * wf * wg
                along += value * (1 if di else -1) * dwf * wg / self.length
                across += value * (1 if dj else -1) * dwg * wf / self.length
        return z, along, across


def weight(f):
    """The quintic that goes from 0 to 1 with vanishing first and second derivatives, and its derivative."""
    return 6 * f**5 - 15 * f**4 + 10 * f**3, 30 * f**4 - 60 * f**3 + 30 * f**2


@dataclass(frozen=True)
class Map:
    pixel: float
    rows: list[list[float]]  # kPa, the first is the largest y

    def place(self, x, y):
        """Column and row among pixel centres, as real numbers."""
        return x / self.pixel - 0.5, len(self.rows) - 1 - (y / self.pixel - 0.5)

    def corner(self, column, row):
        row, column = min(max(row, 0), len(self.rows) - 1), min(max(column, 0), len(self.rows[0]) - 1)
        return self.rows[row][column]

    def stiffness(self, x, y):
        return self.corners(x, y)[0]

    def corners(self, x, y):
        """Value, and its slopes towards larger x and larger y."""
        u, v = self.place(x, y)
        i, j = math.floor(u), math.floor(v)
        a, b = self.corner(i, j), self.corner(i + 1, j)
        c, d = self.corner(i, j + 1), self.corner(i + 1, j + 1)
        f, g = u - i, v - j
        value = (1 - g) * ((1 - f) * a + f * b) + g * ((1 - f) * c + f * d)
        by_column = (1 - g) * (b - a) + g * (d - c)
        by_row = (1 - f) * (c - a) + f * (d - b)
        return value, by_column / self.pixel, -by_row / self.pixel

    def margin(self, x, y):
        return min(abs(v - round(v)) for v in self.place(x, y)) * self.pixel


@dataclass(frozen=True)
class Step:
    position: float  # of the extent along
    low: float
    high: float
    ramp: float

    def stiffness(self, s, length):
        behind = s - self.position * length
        if behind < -self.ramp / 2:
            return self.low
        if behind >= self.ramp / 2:
            return self.high
        return self.low + (self.high - self.low) * (behind / self.ramp + 0.5)

    def slope(self, s, length):
        inside = abs(s - self.position * length) < self.ramp / 2
        return (self.high - self.low) / self.ramp if inside else 0.0

    def margin(self, s, length):
        return abs(abs(s - self.position * length) - self.ramp / 2)


@dataclass(frozen=True)
class Ground:
    """One colony's substrate: a law, perhaps noise on it, perhaps a soft region over it."""

    width: float
    height: float
    direction: float
    kind: str
    slope: float
    base: float
    region: Moat | Stripes | Patches | None = None
    noise: Noise | None = None
    step: Step | None = None
    map: Map | None = None

    @cached_property
    def unit(self) -> tuple[float, float]:
        return math.cos(self.direction), math.sin(self.direction)

    @cached_property
    def lowest(self) -> tuple[float, float]:
        """The smallest projection of a corner along and across."""
        ux, uy = self.unit
        return self._span(ux, uy)[0], self._span(-uy, ux)[0]

    def _span(self, ux: float, uy: float) -> tuple[float, float]:
        corners = [(x, y) for x in (0.0, self.width) for y in (0.0, self.height)]
        values = [x * ux + y * uy for x, y in corners]
        return min(values), max(values)

    def along(self, x: float, y: float) -> float:
        ux, uy = self.unit
        return x * ux + y * uy - self.lowest[0]

    def across(self, x: float, y: float) -> float:
        ux, uy = self.unit
        return -x * uy + y * ux - self.lowest[1]

    @cached_property
    def length(self) -> float:
        """L."""
        low, high = self._span(*self.unit)
        return high - low

    @cached_property
    def breadth(self) -> float:
        """M."""
        ux, uy = self.unit
        low, high = self._span(-uy, ux)
        return high - low

    def clamp(self, x: float, y: float) -> tuple[float, float]:
        return min(max(x, 0.0), self.width), min(max(y, 0.0), self.height)

    def is_outside(self, x: float, y: float) -> bool:
        return (x, y) != self.clamp(x, y)

    def is_soft(self, x: float, y: float) -> bool:
        """Whether the point lies in a soft region."""
        place = self.along(x, y), self.across(x, y), self.length, self.breadth
        return self.region is not None and self.region.contains(*place)

    def stiffness(self, x: float, y: float) -> float:
        """kPa; a point outside has the value of the nearest point inside."""
        x, y = self.clamp(x, y)
        if self.is_soft(x, y):
            return self.region.stiffness
        value = self.law(x, y)
        if self.noise is not None:
            value *= math.exp(self.noise.amplitude * self.noise.field(self.along(x, y), self.across(x, y))[0])
        return value

    def law(self, x: float, y: float) -> float:
        """kPa of the ground alone."""
        s = self.along(x, y)
        return {
            "uniform": lambda: self.base,
            "linear": lambda: self.base + self.slope * s,
            "exponential": lambda: self.base * math.exp(self.slope * s),
            "step": lambda: self.step.stiffness(s, self.length),
            "map": lambda: self.map.stiffness(x, y),
        }[self.kind]()

    def log_gradient(self, x: float, y: float) -> tuple[float, float]:
        """d log E per µm, along and across."""
        x, y = self.clamp(x, y)
        if self.is_soft(x, y):
            return 0.0, 0.0
        s, t = self.along(x, y), self.across(x, y)
        along, across = 0.0, 0.0
        if self.kind == "linear":
            along = self.slope / self.law(x, y)
        elif self.kind == "exponential":
            along = self.slope
        elif self.kind == "step":
            along = self.step.slope(s, self.length) / self.law(x, y)
        elif self.kind == "map":
            value, by_x, by_y = self.map.corners(x, y)
            ux, uy = self.unit
            along, across = (by_x * ux + by_y * uy) / value, (by_y * ux - by_x * uy) / value
        if self.noise is not None:
            _, by_s, by_t = self.noise.field(s, t)
            along, across = along + self.noise.amplitude * by_s, across + self.noise.amplitude * by_t
        return along, across

    def near_edge(self, x: float, y: float, margin: float = 1e-3) -> bool:
        """Whether rounding could put the point on the other side of a jump of stiffness or of its gradient."""
        x, y = self.clamp(x, y)
        s, t = self.along(x, y), self.across(x, y)
        if self.region is not None and self.region.margin(s, t, self.length, self.breadth) < margin:
            return True
        if self.kind == "step" and self.step.margin(s, self.length) < margin:
            return True
        return self.kind == "map" and self.map.margin(x, y) < margin


def read_ground(config: EnvConfig, substrate: Substrate, row: int) -> Ground:
    """Row `row`: the drawn numbers from `substrate`, everything else from `config`."""
    given = config.substrate
    over = drawn_overlay(substrate, row) if given.kind == "random" else given.kind
    has_overlay = over in ("stripes", "patches", "moat", "noise")
    law = (given.ground or "linear") if has_overlay else given.kind
    if law == "random":
        kind = KIND_NAMES[int(substrate.ground[row])]
        slope, base = float(substrate.slope[row]), float(substrate.base[row])
    else:
        kind = law
        slope = {"linear": 0.05, "exponential": 0.0075}.get(kind, 0.0) if given.slope is None else given.slope
        base = {"uniform": 6.0}.get(kind, 1.0) if given.base is None else given.base
    return Ground(
        width=given.size[0],
        height=given.size[1],
        direction=given.direction,
        kind=kind,
        slope=slope,
        base=base,
        region=read_region(over, given, substrate, row),
        noise=Noise(given.noise.amplitude, given.noise.length, substrate.noise.values[row].tolist())
        if over == "noise"
        else None,
        step=Step(given.step.position, given.step.low, given.step.high, given.step.ramp),
        map=read_map(given.map.file, given.map.micrometres_per_pixel, given.map.stiffness)
        if kind == "map"
        else None,
    )


def drawn_overlay(substrate: Substrate, row: int) -> str:
    """What lies over the ground of a random substrate's row."""
    for name in ("stripes", "patches", "moat"):
        part = getattr(substrate, name)
        if part is not None and float(part.stiffness[row]) > 0:
            return name
    if substrate.noise is not None and float(substrate.noise.amplitude[row]) > 0:
        return "noise"
    return "random"


def read_region(over: str, given, substrate: Substrate, row: int) -> Moat | Stripes | Patches | None:
    if over == "moat":
        moat, places = given.moat, substrate.moat.bridges[row].tolist()
        return Moat(moat.width, moat.stiffness, tuple(places[: moat.num_bridges]), moat.bridge_width)
    if over == "stripes":
        s = given.stripes
        return Stripes(s.lane_width, s.stiffness, s.shift_every, s.gap, first_stripe(given))
    if over == "patches":
        discs = zip(
            substrate.patches.centre[row].tolist(), substrate.patches.radius[row].tolist(), strict=True
        )
        return Patches(given.patches.stiffness, tuple((s, t, r) for (s, t), r in discs if r > 0))
    return None


def first_stripe(given) -> float:
    """Half a gap behind the last place of the start box, found by clamping many; 0 along the axes."""
    if min(abs(math.cos(given.direction)), abs(math.sin(given.direction))) < 1e-9:
        return 0.0
    bare = Ground(*given.size, given.direction, "uniform", 0.0, 1.0)
    ux, uy = bare.unit
    places = []
    for share in range(2001):
        s, t = 0.1 * bare.length + bare.lowest[0], (0.4 + 0.2 * share / 2000) * bare.breadth + bare.lowest[1]
        places.append(bare.along(*bare.clamp(s * ux - t * uy, s * uy + t * ux)))
    return max(places) + given.stripes.gap / 2


def read_map(file: str, pixel: float, grey: tuple[float, float] | None) -> Map:
    """Every cell of a CSV file, or every pixel of a grey image of 8 or 16 bits."""
    if grey is None:
        with open(file, newline="") as stream:
            return Map(pixel, [[float(cell) for cell in row] for row in csv.reader(stream)])
    with Image.open(file) as image:
        white = 255 if image.mode == "L" else 65535
        rows = [
            [
                grey[0] + image.getpixel((column, row)) / white * (grey[1] - grey[0])
                for column in range(image.width)
            ]
            for row in range(image.height)
        ]
    return Map(pixel, rows)
