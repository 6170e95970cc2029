"""The substrate, one point at a time, in plain Python floats."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from durotaxis.env.config import EnvConfig
from durotaxis.env.substrate import EXPONENTIAL, LINEAR, UNIFORM, Substrate

KIND_NAMES = {UNIFORM: "uniform", LINEAR: "linear", EXPONENTIAL: "exponential"}


@dataclass(frozen=True)
class Ground:
    """One colony's substrate. `bridges` are the places across of the bridges' middles."""

    width: float
    height: float
    direction: float
    kind: str
    slope: float
    base: float
    moat_width: float | None = None
    moat_stiffness: float = 0.15
    bridges: tuple[float, ...] = ()
    bridge_width: float = 16.0

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

    def in_moat(self, x: float, y: float) -> bool:
        if self.moat_width is None:
            return False
        if abs(self.along(x, y) - self.length / 2) > self.moat_width / 2:
            return False
        t = self.across(x, y)
        return all(abs(t - bridge) > self.bridge_width / 2 for bridge in self.bridges)

    def stiffness(self, x: float, y: float) -> float:
        """kPa; a point outside has the value of the nearest point inside."""
        x, y = self.clamp(x, y)
        if self.in_moat(x, y):
            return self.moat_stiffness
        if self.kind == "uniform":
            return self.base
        s = self.along(x, y)
        if self.kind == "linear":
            return self.base + self.slope * s
        return self.base * math.exp(self.slope * s)

    def log_gradient(self, x: float, y: float) -> tuple[float, float]:
        """d log E per µm, along and across."""
        x, y = self.clamp(x, y)
        if self.kind == "uniform" or self.in_moat(x, y):
            return 0.0, 0.0
        if self.kind == "linear":
            return self.slope / self.stiffness(x, y), 0.0
        return self.slope, 0.0

    def near_edge(self, x: float, y: float, margin: float = 1e-3) -> bool:
        """Whether rounding could put the point on the other side of a jump."""
        if self.moat_width is None:
            return False
        if abs(abs(self.along(x, y) - self.length / 2) - self.moat_width / 2) < margin:
            return True
        t = self.across(x, y)
        return any(abs(abs(t - bridge) - self.bridge_width / 2) < margin for bridge in self.bridges)


def read_ground(config: EnvConfig, substrate: Substrate, row: int) -> Ground:
    """Row `row`: the drawn numbers from `substrate`, everything else from `config`."""
    given = config.substrate
    if given.ground == "random":
        kind = KIND_NAMES[int(substrate.ground[row])]
        slope, base = float(substrate.slope[row]), float(substrate.base[row])
    else:
        kind, slope, base = given.ground, given.resolved_slope, given.resolved_base
    moat = given.kind == "moat"
    return Ground(
        width=given.size[0],
        height=given.size[1],
        direction=given.direction,
        kind=kind,
        slope=slope,
        base=base,
        moat_width=given.moat.width if moat else None,
        moat_stiffness=given.moat.stiffness,
        bridges=tuple(substrate.bridges[row].tolist()[: given.moat.num_bridges]) if moat else (),
        bridge_width=given.moat.bridge_width,
    )
